// Package parts builds the programs of which the lab is made, once.
//
// Every directory below this one is a part: a Go module of its own that names
// the programs by tool directives at pinned versions (kubernetes, containerd,
// cni, multus, helm, etcdutl), a module with a main of ours (etcd, certissuer), or a
// main of this module (forward); prometheusoperator has no program, only files
// that tests read where Module says. What is built is kept in
//
//	${XDG_CACHE_HOME:-$HOME/.cache}/spiderpool-lab/PART-HASH/bin
//
// where HASH covers the part's files, the Go version, the platform and the
// build flags. A directory that exists is complete: programs are built beside
// it and renamed. Directories of former versions stay until somebody removes
// them; nothing else is kept there.
package parts
