#!/bin/sh
# Installs what development, tests and demo need on a Debian 12 machine, as root. Does nothing where all is there.
# It names no registry: apt, pip and Go use the ones that the machine is set up with.
set -eu
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9 # installed where PATH has no uv of this minor version or a later one
GO_OLDEST=1.21    # the oldest that can fetch the Go that dev/kubernetes/go.mod asks for
PACKAGES="ca-certificates gcc libc6-dev pkg-config python3-dev python3-venv openssl util-linux e2fsprogs mount
libvirt-daemon-system libvirt-clients libvirt-dev qemu-system-x86 qemu-utils etcd-server busybox-static mmdebstrap
nbdkit libnbd-bin virtnbdbackup xfsprogs buildah containernetworking-plugins iproute2 libseccomp-dev
lua5.4 prometheus restic"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/vmbackup-operator"

say() { echo "bootstrap: $*"; }

at_least() { # at_least OLDEST VERSION
    [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

install_packages() {
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}

[ "$(id -u)" = 0 ] || { say "run it as root" >&2; exit 1; }

missing=
for package in $PACKAGES; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2> /dev/null | grep -qx installed || missing="$missing $package"
done
# shellcheck disable=SC2086 # one word per package
[ -z "$missing" ] || install_packages $missing

# Go is needed only where kube-apiserver must be built.
if [ ! -x "${KUBEBUILDER_ASSETS:-/nonexistent}/kube-apiserver" ]; then
    go=$(go env GOVERSION 2> /dev/null | sed 's/^go//' || true)
    if [ -z "$go" ] || ! at_least $GO_OLDEST "$go"; then
        release=$(. /etc/os-release && echo "$VERSION_CODENAME")
        candidate=$(apt-cache policy golang-go | sed -n 's/^  Candidate: 2:\([0-9.]*\).*/\1/p')
        if [ -n "$candidate" ] && at_least $GO_OLDEST "$candidate"; then
            install_packages golang-go
        else
            mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -E '/debian/?$' | head -n 1)
            [ -n "$mirror" ] || { say "apt's sources name no Debian archive: install Go $GO_OLDEST or later" >&2; exit 1; }
            say "adding $release-backports to apt's sources (for Go)"
            echo "deb $mirror $release-backports main" > "/etc/apt/sources.list.d/$release-backports.list"
            install_packages "golang-go/$release-backports" "golang-src/$release-backports"
        fi
    fi
fi

uv=$(command -v uv || true)
if [ -z "$uv" ] || ! at_least "${UV_VERSION%.*}" "$("$uv" --version | cut -d ' ' -f 2)"; then
    uv="$cache/uv-$UV_VERSION/bin/uv"
    if [ ! -x "$uv" ]; then
        say "installing uv $UV_VERSION"
        mkdir -p "$cache"
        python3 -m venv "$cache/uv-$UV_VERSION"
        "$cache/uv-$UV_VERSION/bin/pip" install --quiet "uv==$UV_VERSION"
    fi
fi
say "installing the locked Python packages"
export UV_PYTHON_DOWNLOADS=never
"$uv" venv --quiet --allow-existing --python '>=3.11' .venv
"$uv" pip sync --quiet --require-hashes --python .venv requirements/dev.txt
"$uv" pip install --quiet --no-deps --no-build-isolation --python .venv --editable .
say "done"
