#!/bin/sh
# node.sh ARCHIVE BASE KIND PROGRAMS: the file system of a kind node, from that of
# base.sh, the files of kind's own base image (images/base/files of its module) and
# the folder of programs: kubernetes, helper, coredns, flanneld. Needs root.
set -eu
archive=$1 base=$2 kind=$3 programs=$4
version=$("$programs/kubernetes" kubeadm version -o short)
work=$archive.work
trap 'rm -rf "$work"' EXIT
rm -rf "$work"
root=$work/root images=$work/images
mkdir -p "$root" "$images"
tar -C "$root" -xf "$base"

# kind's own files, and what the Dockerfile beside them does with a Debian system.
cp -r "$kind/etc" "$kind/kind" "$kind/usr" "$root/"
chmod -R u+w "$root/etc" "$root/kind" "$root/usr/local"
chmod 755 "$root/kind" "$root/kind/bin" "$root"/kind/bin/* "$root"/usr/local/bin/*
find "$root/lib/systemd/system/sysinit.target.wants" -name systemd-tmpfiles-setup.service -delete
rm -f "$root"/lib/systemd/system/multi-user.target.wants/* "$root"/etc/systemd/system/*.wants/* \
	"$root"/lib/systemd/system/local-fs.target.wants/* "$root"/lib/systemd/system/basic.target.wants/* \
	"$root"/lib/systemd/system/sockets.target.wants/*udev* "$root"/lib/systemd/system/sockets.target.wants/*initctl*
echo ReadKMsg=no >>"$root/etc/systemd/journald.conf"
chroot "$root" systemctl enable kubelet.service containerd.service undo-mount-hacks.service >/dev/null 2>&1
chroot "$root" systemctl mask systemd-binfmt.service >/dev/null 2>&1
chroot "$root" ctr oci spec |
	jq 'del(.process.rlimits) | .hooks.createContainer += [{path: "/kind/bin/mount-product-files.sh"}]' >"$root/etc/containerd/cri-base.json"
mkdir -p "$root/etc/kubernetes/manifests" "$root/kind/manifests" "$root/kind/images" "$root/opt/cni/bin" "$root/etc/cni/net.d"

# Debian's containerd and plugins lie elsewhere than kind looks for them. The
# images are there once containerd has started.
ln -s /usr/bin/containerd /usr/bin/ctr "$root/usr/local/bin/"
cp "$root"/usr/lib/cni/* "$root/opt/cni/bin/"
sed -i '/^ExecStart=/a ExecStartPost=/usr/bin/ctr -n k8s.io images import /kind/images/images.tar' "$root/etc/systemd/system/containerd.service"
install -m 755 "$programs/helper" "$root/usr/local/sbin/runc"
install -m 755 "$programs/kubernetes" "$root/usr/bin/kubernetes"
for name in kubeadm kubelet kubectl; do ln -s kubernetes "$root/usr/bin/$name"; done
printf %s "$version" >"$root/kind/version"
# kind applies it; there is no storage class in it.
printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: no-storage-class, namespace: kube-system}\n' >"$root/kind/manifests/default-storage.yaml"

# layer DIR NAME: makes a folder one layer of images and prints its digest.
layer() {
	tar -C "$1" --sort=name --mtime=@0 --numeric-owner -cf "$images/$2.tar" .
	sha256sum "$images/$2.tar" | cut -d' ' -f1
}
# entry LAYER TAGS CONFIG: an image of one layer, as an entry of manifest.json.
entry() {
	jq -cn --arg digest "sha256:$(layer "$work/$1" "$1")" --argjson config "$3" \
		'{architecture: "amd64", os: "linux", config: $config, rootfs: {type: "layers", diff_ids: [$digest]}}' >"$images/$1.json"
	jq -cn --arg name "$1" --arg tags "$2" '{Config: "\($name).json", Layers: ["\($name).tar"], RepoTags: ($tags | split("\n") | map(select(. != "")))}'
}
# with DIR FILE...: copies programs of the base there, with the libraries they need.
with() {
	into=$1
	shift
	for file in "$@"; do
		for path in "$file" $(chroot "$root" ldd "$file" | grep -oE '/[^ ]+\.so[^ ]*'); do
			mkdir -p "$into${path%/*}"
			[ -e "$into$path" ] || cp -L "$root$path" "$into$path"
		done
	done
}

# One image is all of Kubernetes' and flannel's, with what changes packets' ways.
mkdir -p "$work/kubernetes/usr/local/bin" "$work/kubernetes/tmp" "$work/kubernetes/run" "$work/kubernetes/etc"
cp "$programs/kubernetes" "$programs/flanneld" "$work/kubernetes/usr/local/bin/"
for name in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do ln -s kubernetes "$work/kubernetes/usr/local/bin/$name"; done
with "$work/kubernetes" /usr/sbin/nft /usr/sbin/xtables-nft-multi /usr/sbin/conntrack /bin/sh /bin/mv /bin/sleep \
	$(cd "$root" && find usr/lib/x86_64-linux-gnu/xtables -name '*.so' -printf '/%p ')
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do ln -s xtables-nft-multi "$work/kubernetes/usr/sbin/$name"; done
mkdir -p "$work/coredns" "$work/pause"
install -m 755 "$programs/coredns" "$work/coredns/coredns"
install -m 755 "$programs/helper" "$work/pause/pause"

list=$("$programs/kubernetes" kubeadm config images list --kubernetes-version "$version")
{
	entry kubernetes "$(echo "$list" | grep -v -e coredns -e pause; echo causeway-test/flannel:1)" '{"Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}'
	entry coredns "$(echo "$list" | grep coredns)" '{"Entrypoint": ["/coredns"]}'
	# containerd's configuration names an older one than kubeadm does.
	entry pause "$(echo "$list" | grep pause; echo registry.k8s.io/pause:3.10)" '{"Entrypoint": ["/pause"]}'
} | jq -s . >"$images/manifest.json"
tar -C "$images" -cf "$root/kind/images/images.tar" .

tar -C "$root" --numeric-owner -cf "$archive.draft" .
mv "$archive.draft" "$archive"
