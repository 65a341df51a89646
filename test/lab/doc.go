// Package lab runs a real Kubernetes of several nodes with underlay networks
// on one Linux machine, without containers' usual daemons and without any image
// registry: etcd, kube-apiserver, kube-controller-manager, kube-scheduler and
// kube-proxy in one network namespace, and per node a kubelet, containerd and
// runc in namespaces of their own.
//
// It needs root and the Debian packages of packages.txt. Programs are built
// from Go modules once (package parts). Everything of an instance is below
//
//	/var/lib/spiderpool-lab/NAME
//
// and every process of it in the cgroup spiderpool-lab/NAME; the machine's own
// network, /etc and /run stay untouched. Instances of different names run side
// by side. Processes outlive the program that started them; Down ends all of
// it, also what a crash left.
//
// # Networks
//
//	eth1  management  10.250.0.0/24, fd00:10:250::/64  nodes at .11 and up (::b and up), control plane at .1
//	eth0  segment 1   172.20.0.0/16, fd00:172:20::/64  gateways 172.20.0.1, fd00:172:20::1
//	eth2  segment 2   172.21.0.0/16, fd00:172:21::/64  gateways 172.21.0.1, fd00:172:21::1
//	      services    10.96.0.0/16,  fd00:10:96::/112
//
// Nodes have no address on the segments: pods there reach nodes, services and
// each other's segment by the gateways, which the control plane's namespace
// holds. kube-proxy runs there too, so service addresses work for nodes and
// for pods whose gateway is that of a segment. Nodes are labelled
// topology.kubernetes.io/zone=zone-1 and zone-2 in turn.
//
// # Nodes
//
// /etc (a copy of the machine's), /opt, /run, /var/lib and /var/log are a
// node's own, so every usual hostPath is private to its node, and the machine
// finds them by HostPath. /opt/cni/bin holds the main CNI plugins and
// host-local. No CNI configuration is there until WriteCNI, so nodes are
// NotReady at first, as on any new cluster; pods on the host's network run.
// Static pods are read from /etc/kubernetes/manifests.
//
// A node counts as lost after 12 s without a sign of life, and its pods are
// evicted after another 5 s.
//
// # Images
//
// docker.io/library/alpine:latest, docker.io/library/alpine:3,
// docker.io/library/busybox:latest and localhost/alpine:1 are one image with
// busybox in it: sh, sleep, ip, ping, arping, nc, httpd, wget. Of Debian's
// busybox-static, wget crashes with -T and cannot speak https to an API server.
// LoadImage brings other images. Pods use imagePullPolicy IfNotPresent or
// Never: there is no registry. sleep as the first process of a container
// ignores TERM: trap it, or give the pod a grace of a second.
package lab
