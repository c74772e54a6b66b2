# SPDX-License-Identifier: Apache-2.0
# Sourced by deploy/run, deploy/debian/rules and tests/run: what is needed, and how it gets there.

# All are in Debian 12 and 13.
RUNTIME_PACKAGES="python3 python3-bpfcc python3-prometheus-client python3-yaml python3-jsonschema python3-h11 python3-bcrypt python3-pyelftools python3-seccomp libbpf1 bpftool"

# need PACKAGE...: installs what is missing on Debian and its descendants; elsewhere says what is wanted.
need() {
    if ! command -v dpkg-query >/dev/null; then
        echo "$0: this is no Debian: install what these packages of Debian's hold, if it is not there: $*" >&2
        return
    fi
    missing=
    for package in "$@"; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
            *" installed") ;;
            *) missing="$missing $package" ;;
        esac
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "$0: run it as root (sudo $0), or install:$missing" >&2
        exit 1
    fi
    echo "$0: installing$missing" >&2
    # The services that packages bring are not to be started (101: forbidden by policy).
    policy=
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    # The lists are only fetched where the old ones don't do.
    install="env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends"
    # shellcheck disable=SC2086 # words are what they are
    $install $missing >/dev/null 2>&1 || { apt-get update -q >/dev/null && $install $missing >/dev/null; } || {
        echo "$0: apt-get could not install$missing" >&2
        exit 1
    }
    if [ -n "$policy" ]; then
        rm -f $policy
        trap - EXIT
    fi
}
