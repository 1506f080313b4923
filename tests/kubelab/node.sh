#!/bin/sh
# The first process of a node, in PID, mount and network namespaces of its own:
# all that runs, is mounted or is set here goes with it, however it ends. It is
# given the node's folder, the Kubernetes binary, the node's name and address.
set -eu
dir=$1 kubernetes=$2 name=$3 address=$4

# What programs keep at fixed places is kept in memory. Mounts are shared among
# the node's own namespaces, as kubelet wants it, and with nobody else.
mount --make-rprivate /
mount -t proc proc /proc
for kept in /run /var/lib /var/log; do
	mount -t tmpfs -o mode=755 node "$kept"
done
mount --make-rshared /
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns /run/lock /var/lib/kubelet /var/log/pods

# Settings of the whole machine, which kubelet writes: it gets files instead.
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
	mkdir -p "/run/settings/${setting%/*}"
	cat "/proc/sys/$setting" >"/run/settings/$setting"
	mount --bind "/run/settings/$setting" "/proc/sys/$setting"
done

# An address and a way out that ends here: connections to Services are turned
# towards pods only after a route was found.
ip link set lo up
ip link add uplink type veth peer name wire
ip link set wire up
ip address add "$address/24" dev uplink
ip link set uplink up
ip route add default dev uplink
echo 1 >/proc/sys/net/ipv4/ip_forward

containerd -c "$dir/containerd.toml" >"$dir/containerd.log" 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
for archive in "$dir"/*.tar; do
	ctr -n k8s.io images import --snapshotter native "$archive" >>"$dir/import.log" 2>&1
done
"$kubernetes" kubelet --config="$dir/kubelet.yaml" --kubeconfig="$dir/kubelet.conf" \
	--hostname-override="$name" --node-ip="$address" --v=1 >"$dir/kubelet.log" 2>&1 &
"$kubernetes" kube-proxy --kubeconfig="$dir/proxy.conf" --hostname-override="$name" --proxy-mode=nftables \
	--conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 >"$dir/kube-proxy.log" 2>&1 &
# The shell collects what it did not start, too, as a first process has to.
wait
