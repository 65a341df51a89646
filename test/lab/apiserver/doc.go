// Package apiserver runs a real kube-apiserver with its etcd as two processes,
// ready after about three seconds, for tests that need the API but no nodes,
// and as the control plane of package lab.
//
// On its own it listens on loopback at free ports, keeps its data in a
// temporary directory, and ends with the process that started it, however that
// ends. Authorization is RBAC and Node, service account tokens are issued and
// judged for real, every connection is verified against a certificate
// authority of its own. No controllers run beside it: namespaces are not
// emptied, nothing is garbage collected, and since nobody makes the service
// account "default", pods are admitted without one.
package apiserver
