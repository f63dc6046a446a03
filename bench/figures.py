"""Samples, and what is said of them: medians, ratios of neighbours, noise."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Series:
    """Two sides measured in turns. Sample i of `ours` was taken right beside sample i of `theirs`. Seconds."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Return the median of the ratios of neighbours: a machine that is busy for a while is busy for both."""
        return statistics.median(self.ratios)

    @property
    def ratios(self) -> list[float]:
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    def report(self) -> dict[str, Any]:
        return {
            "ratio": round(self.ratio, 3),
            "ratios": rounded(self.ratios),
            "ratio_of_the_fastest": round(min(self.ours) / min(self.theirs), 3),
            "ours_seconds": described(self.ours),
            "theirs_seconds": described(self.theirs),
        }


def described(samples: Sequence[float]) -> dict[str, Any]:
    """Return median, spread (between the quartiles, as a part of the median) and all samples in their order."""
    return {
        "median": round(statistics.median(samples), 3),
        "spread": round(spread(samples), 2),
        "samples": rounded(samples),
    }


def spread(samples: Sequence[float]) -> float:
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / statistics.median(samples)


def rounded(samples: Sequence[float]) -> list[float]:
    return [round(sample, 3) for sample in samples]
