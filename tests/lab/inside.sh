#!/bin/sh
# Becomes PID 1 of a lab host: runs in fresh mount, pid, uts and ipc namespaces and in the host's
# network namespace; builds the host's file system and pivots into it.
# usage: inside.sh NAME STATE_DIR LOWERDIRS DISK_MIB
set -eu
name=$1 state=$2 lowers=$3 disk=$4
root=$state/root
mount --make-rprivate /
hostname "$name"
mount -t overlay lab -o "lowerdir=$lowers,upperdir=$state/upper,workdir=$state/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 dev "$root/dev"
for node in null zero full random urandom tty fuse; do
    [ -e "/dev/$node" ] || continue
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mkdir -p "$root/var/lib/docker" "$root/run/sshd" "$root/run/lock" "$root/.old"
# overlay2 does not stack on an overlay: Docker gets a plain folder.
if [ "$disk" = 0 ]; then
    mount --bind "$state/docker" "$root/var/lib/docker"
else
    mount -t tmpfs -o "size=${disk}m" disk "$root/var/lib/docker"
fi
echo 1 > /proc/sys/net/ipv4/ip_forward
cd "$root"
pivot_root . .old
umount -l /.old
rmdir /.old
exec /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root LANG=C.UTF-8 /usr/bin/python3 -c '
import os, signal, time
# PID 1: reap whatever is orphaned, for ever.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.2)
'
