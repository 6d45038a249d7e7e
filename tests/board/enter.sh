#!/bin/sh
# enter.sh ROOT CPUINFO CPU PORT: become a board, in mount, process, host name and message namespaces of its own that are already made.
# Only a server on the loopback port is visible outside; all of it ends with this process.
set -eu
root=$1 cpuinfo=$2 cpu=$3 port=$4
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount --bind "$cpuinfo" proc/cpuinfo
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
  touch "dev/$name"
  mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/pts dev/shm .host
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
hostname board
pivot_root . .host
QEMU_CPU=$cpu PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export QEMU_CPU PATH
exec chroot . /bin/sh -c 'umount -l /.host && rmdir /.host && exec /usr/sbin/sshd -D -e -o "Port=$0" -o ListenAddress=127.0.0.1 -o UsePAM=no -o "SetEnv=QEMU_CPU=$1"' \
  "$port" "$cpu"
