#!/bin/bash
# Boots systemd as PID 1 over a throw-away copy of this machine's root. box.py starts it in new
# namespaces; nothing that happens here reaches the host.
#
#   boot.sh DIR HIERARCHIES [SOURCE TARGET]...
#
# DIR: an empty directory. HIERARCHIES: one "options directory" a line, of the host's cgroups.
# Each SOURCE is bound to TARGET, read-only.
set -eu
dir=$1 hierarchies=$2
shift 2

mount --make-rprivate /
mount -t tmpfs -o size=2g tmpfs "$dir" # overlayfs wants its upper layer on another filesystem
mkdir "$dir"/{upper,work,root}
root=$dir/root
mount -t overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" overlay "$root"

while [ $# -gt 0 ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    mount -o remount,bind,ro "$root$2"
    shift 2
done

mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root"/dev/{pts,shm}
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"

# cgroup namespaces show each hierarchy from the box's own group down, writable.
if ! grep -q '^cgroup2 /sys/fs/cgroup$' <<<"$hierarchies"; then
    mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
fi
while read -r options path; do
    mkdir -p "$root$path"
    if [ "$options" = cgroup2 ]; then
        mount -t cgroup2 cgroup2 "$root$path"
    else
        mount -t cgroup -o "$options" cgroup "$root$path"
    fi
done <<<"$hierarchies"

cd "$root"
mkdir -p .host
pivot_root . .host
umount -l /.host
: >/etc/machine-id
: >/etc/fstab # the host's disks are not ours to mount
exec env -i container=edged PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
    /lib/systemd/systemd --unit=basic.target --show-status=false
