#!/bin/sh
# Installs edged as a service on a Jetson, or takes it away again. jetson/README.md is its manual.
# Not verified on hardware: tested on made-up trees of files (tests/jetson/test_install.py), and with
# the real systemd in a box that says it is a Jetson (tests/systemd/test_jetson_install.py).
set -eu
umask 022 # the service's account reads what root installs

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
source=$(dirname -- "$here")
root=${EDGED_ROOT:-} # a folder in place of /, for tests: programs too are taken from its usr/bin
prefix=/opt/edged
unit=/etc/systemd/system/edged.service
drop_in=/etc/systemd/system/edged.service.d/jetson.conf
account=/etc/sysusers.d/edged.conf
config=/etc/edged/edged.toml
cache=/var/cache/edged
state=/var/lib/edged
log=/var/log/edged-install.log

usage() {
    cat <<'END'
Usage: jetson/install.sh [--dry-run] [--uninstall] [--help]

Installs edged as a systemd service on a Jetson with JetPack 6.1 or later: into a virtual environment in
/opt/edged that sees the system's packages, or from edged_*_arm64.deb where one lies beside this
script. Run it as root, in the source tree; running it again brings everything up to date.

  --dry-run    say what would be done, and change nothing
  --uninstall  take away the program, the service and the cache; models and configuration stay
  --help       this text

Exit status: 0 done, 1 a step failed, 2 this machine or command line is refused.
EDGED_ROOT=DIR takes DIR for / (for tests).
END
}

say() {
    printf '%s\n' "$*"
    if [ "$dry_run" = no ] && [ -d "$root${log%/*}" ]; then
        printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >>"$root$log" || true
    fi
}

refuse() { # this machine, or the command line
    say "install.sh: $*" >&2
    exit 2
}

fail() { # a step
    say "install.sh: $*" >&2
    exit 1
}

# --- steps; each says what it does, and does nothing under --dry-run -------------------------------

shown() { # paths as they are without EDGED_ROOT
    if [ -n "$root" ]; then printf '%s' "$*" | sed "s|$root||g"; else printf '%s' "$*"; fi
}

program() { # run a program of the system, or the one of the folder in its place
    name=$1
    shift
    if [ -n "$root" ]; then "$root/usr/bin/$name" "$@"; else "$name" "$@"; fi
}

system() {
    say "+ $(shown "$*")"
    [ "$dry_run" = yes ] || program "$@" || fail "this step has failed: $(shown "$*")"
}

folder() { # MODE PATH, for the service's account
    say "folder $2 (mode $1, account edged)"
    [ "$dry_run" = yes ] && return
    mkdir -p "$root$2"
    chmod "$1" "$root$2"
    program chown edged:edged "$root$2" || fail "the account of $2 cannot be set"
}

put() { # FILE PATH: a copy that is brought up to date
    if [ -f "$root$2" ] && cmp -s "$1" "$root$2"; then
        say "file $2 is up to date"
        return
    fi
    say "file $2"
    [ "$dry_run" = yes ] && return
    mkdir -p "$root$(dirname -- "$2")"
    cp "$1" "$root$2"
    chmod 644 "$root$2"
}

drop() { # PATH, a file or a folder
    [ -e "$root$1" ] || return 0
    say "remove $1"
    [ "$dry_run" = yes ] || rm -rf -- "$root$1"
}

# --- which machine this is --------------------------------------------------------------------------

tree() { # a property of the device tree, its NULs as spaces
    for base in proc/device-tree sys/firmware/devicetree/base; do
        if [ -r "$root/$base/$1" ]; then
            tr '\0' ' ' <"$root/$base/$1" | sed 's/ *$//'
            return
        fi
    done
}

released() { # the release of L4T, as 36.4.3; nothing if the file does not tell
    sed -n '1s/^# R\([0-9][0-9]*\) (release), REVISION: \([0-9][0-9.]*\),.*/\1.\2/p' \
        "$root/etc/nv_tegra_release"
}

row() { # the row of jetpack.tsv for the release $1
    awk -v release="$1" '
        function number(text, part) {
            split(text, part, ".")
            return part[1] * 1000000 + part[2] * 1000 + part[3]
        }
        /^[0-9]/ && int(number($1) / 1000000) == int(number(release) / 1000000) \
            && number($1) <= number(release) { found = $0 }
        END { print found }
    ' "$here/jetpack.tsv"
}

look() { # sets l4t, jetpack, python, cuda, tensorrt; refuses what edged does not support
    model=$(tree model)
    if [ ! -r "$root/etc/nv_tegra_release" ]; then
        case $(tree compatible) in
        *nvidia,tegra*) refuse "${model:-this Jetson} has no /etc/nv_tegra_release: it runs no Jetson Linux" \
            "from NVIDIA, which CUDA and TensorRT come with; for the CPU alone see docs/operations.md" ;;
        *) refuse "this is no Jetson: it has no /etc/nv_tegra_release; docs/operations.md says how to" \
            "install edged on other machines" ;;
        esac
    fi
    l4t=$(released)
    [ -n "$l4t" ] || refuse "the first line of /etc/nv_tegra_release does not tell the release of L4T"
    # shellcheck disable=SC2046 # a row of words
    set -- $(row "$l4t")
    [ $# = 6 ] || refuse "L4T R$l4t is not in jetson/jetpack.tsv: edged needs JetPack 6.1 (L4T R36.4)" \
        "or a later one that it knows; a newer edged may know this one"
    jetpack=$2 python=$3 cuda=$4 tensorrt=$5
    say "${model:-a Jetson that does not tell its model}: L4T R$l4t, JetPack $jetpack (Python $python," \
        "CUDA $cuda, TensorRT $tensorrt)"
    [ "$6" = served ] || refuse "JetPack $jetpack is refused: it has Python $python and TensorRT" \
        "$tensorrt, edged needs Python 3.10 and TensorRT 10.3 at least; update to JetPack 6.1" \
        "(L4T R36.4) or later"
}

# --- the steps of an installation ---------------------------------------------------------------------

package() { # the one package beside this script; nothing where there is none
    set -- "$here"/edged_*_arm64.deb
    [ -e "$1" ] || return 0
    [ $# = 1 ] || fail "there are $# packages beside this script: leave the one to install"
    printf '%s' "$1"
}

install_program() {
    deb=$(package) || exit 1
    if [ -n "$deb" ]; then
        say "package ${deb##*/}"
        system apt-get install --yes "$deb"
        return
    fi
    interpreter=$root/usr/bin/python3
    [ -x "$interpreter" ] || fail "there is no /usr/bin/python3: apt-get install python3 python3-venv"
    found=$("$interpreter" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [ "$found" = "$python" ] || refuse "/usr/bin/python3 is Python $found, JetPack $jetpack has $python:" \
        "TensorRT's module is built for that one alone"
    if [ -f "$root$prefix/pyvenv.cfg" ]; then
        grep -q '^include-system-site-packages = true' "$root$prefix/pyvenv.cfg" ||
            fail "$prefix is a virtual environment that does not see the system's packages, so not" \
                "TensorRT either: remove it and run this again"
        say "virtual environment $prefix is there"
    elif [ -e "$root$prefix" ]; then
        fail "$prefix is there, and is no virtual environment: remove it or move it away"
    else
        "$interpreter" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "this Python cannot make virtual environments: apt-get install python3-venv"
        say "+ /usr/bin/python3 -m venv --system-site-packages $prefix"
        [ "$dry_run" = yes ] || "$interpreter" -m venv --system-site-packages "$root$prefix" ||
            fail "the virtual environment cannot be made"
    fi
    say "+ $prefix/bin/python -m pip install --constraint constraints.txt .[tensorrt]"
    [ "$dry_run" = yes ] || "$root$prefix/bin/python" -m pip install --disable-pip-version-check --quiet \
        --constraint "$source/constraints.txt" "$source[tensorrt]" || fail "pip could not install edged"
}

check_tensorrt() { # the module is the system's, so the system's Python knows before there is a venv
    interpreter=$root$prefix/bin/python
    [ -x "$interpreter" ] || interpreter=$root/usr/bin/python3
    if version=$("$interpreter" -c 'import tensorrt; print(tensorrt.__version__)' 2>/dev/null); then
        say "TensorRT $version can be imported"
    else
        say "TensorRT cannot be imported: apt-get install tensorrt python3-libnvinfer, then run this" \
            "again. Without it the daemon computes on the CPU."
    fi
}

install_account() {
    put "$source/systemd/edged.sysusers" "$account"
    system systemd-sysusers
    for group in video render; do
        if grep -qs "^$group:" "$root/etc/group"; then
            system usermod --append --groups "$group" edged
        else
            say "there is no group $group: the GPU's device nodes may stay closed to the service"
        fi
    done
}

install_service() {
    put "$source/systemd/edged.service" "$unit"
    put "$source/systemd/edged.service.d/jetson.conf" "$drop_in"
    if [ -e "$root$config" ]; then
        say "file $config is yours: left as it is"
    else
        put "$source/configs/edged.toml" "$config"
    fi
    folder 750 "$state"
    folder 750 "$cache"
    # The account owns the folder above, and could have put a link to anything in this one's place:
    # it is made by the account itself.
    say "folder $cache/cuda (mode 750, account edged)"
    [ "$dry_run" = yes ] || program runuser -u edged -- mkdir -p -m 750 "$root$cache/cuda" ||
        fail "$cache/cuda cannot be made"
    system systemctl daemon-reload
}

finish() {
    say "+ runuser -u edged -- $prefix/bin/edged doctor"
    [ "$dry_run" = yes ] && return
    status=0
    program runuser -u edged -- "$root$prefix/bin/edged" doctor || status=$?
    say "edged is installed (doctor: status $status). Put models into $state/store, then:" \
        "systemctl enable --now edged; where it runs already: systemctl restart edged"
    [ "$status" -le 1 ] || fail "edged cannot serve yet: mend what doctor calls bad"
}

uninstall() {
    say "removing edged"
    [ ! -e "$root$unit" ] || system systemctl disable --now edged
    if [ -n "$(program dpkg-query --show edged 2>/dev/null)" ]; then
        system apt-get remove --yes edged
    elif [ -e "$root$prefix" ] && [ ! -f "$root$prefix/pyvenv.cfg" ]; then
        say "$prefix is no virtual environment: left as it is"
    else
        drop "$prefix"
    fi
    for path in "$unit" "$drop_in" "$account" "$cache"; do drop "$path"; done
    [ "$dry_run" = yes ] || rmdir "$root${drop_in%/*}" 2>/dev/null || true # others may have drop-ins
    system systemctl daemon-reload
    say "left: $state (models), ${config%/*} (configuration), the account edged, $log"
}

# --- the command line -----------------------------------------------------------------------------------

dry_run=no
action=install
for argument in "$@"; do
    case $argument in
    --dry-run) dry_run=yes ;;
    --uninstall) action=uninstall ;;
    --help | -h)
        usage
        exit 0
        ;;
    *) refuse "there is no option $argument; see --help" ;;
    esac
done
[ "$dry_run" = no ] || say "dry run: nothing is changed"
[ "$dry_run" = yes ] || [ -n "$root" ] || [ "$(id -u)" = 0 ] || refuse "run it as root, or with --dry-run"

if [ "$action" = uninstall ]; then
    uninstall
    exit 0
fi
look
install_program
check_tensorrt
install_account
install_service
finish
