// Package buildinfo says which build of the product a program is.
package buildinfo

import (
	"cmp"
	"fmt"
	"runtime"
)

// The linker sets both (see the Makefile), so that a build tells the same wherever its source lies: what Go itself finds
// out about a commit depends on the tags of the clone.
var release, commit string

// Version tells the version of the chart, the commit of the source, the Go that built it, and the platform that it is built
// for: "0.1.0, commit 1f3e…, go1.26.0, linux/arm64". A commit with "-dirty" is not all of the source. What no make has built
// is "devel" of an unknown commit.
func Version() string {
	return fmt.Sprintf("%s, commit %s, %s, %s/%s", cmp.Or(release, "devel"), cmp.Or(commit, "unknown"), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
