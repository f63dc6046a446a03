"""The one error of the test bed."""


class TestbedError(Exception):
    """A part could not be made or started; the message says what to do next."""

    __test__ = False  # pytest would collect the name otherwise
