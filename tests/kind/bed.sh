#!/bin/sh
# The first process of a bed, in PID, mount and network namespaces of its own: all
# that runs, is mounted or is set here goes with it, however it ends. It is given
# the bed's folder, the program in front of runc, and the group of its containers.
set -eu
dir=$1 runc=$2 group=$3

mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 bed /run
mkdir -p /run/lock
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward

# The bed's own socket: no file, no port, no folder of an installed docker.
echo '{}' >/run/dockerd.json
dockerd --config-file /run/dockerd.json --host "unix://$dir/docker.sock" --data-root "$dir/docker" --exec-root /run/docker --pidfile /run/dockerd.pid \
	--add-runtime "bed=$runc" --default-runtime bed --cgroup-parent "$group" --storage-driver overlay2 \
	>"$dir/dockerd.log" 2>&1 &
# The shell collects what it did not start, too, as a first process has to.
wait
