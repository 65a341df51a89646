package parts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// Bin returns the directory that holds the programs of a part, and builds
// them first if the cache has them not. Progress goes to out. Two processes
// never build the same part at once: the second waits, and says so.
func Bin(ctx context.Context, out io.Writer, part string) (string, error) {
	src, err := source(part)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache of the lab's parts (set HOME or XDG_CACHE_HOME): %w", err)
	}
	b := builder{out: out, part: part, src: src, cache: filepath.Join(cache, "spiderpool-lab")}
	return b.bin(ctx)
}

// Module returns the directory of the source of a module that a part requires,
// for the files in it that are no programs, as manifests. It is downloaded if
// the module cache has it not, and must be what the go.sum of the part says.
func Module(ctx context.Context, part, module string) (string, error) {
	src, err := source(part)
	if err != nil {
		return "", err
	}
	out, err := builder{src: src}.run(ctx, "mod", "download", "-json", module)
	if err != nil {
		return "", err
	}
	var downloaded struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &downloaded); err != nil {
		return "", fmt.Errorf("module %s of part %s: %w", module, part, err)
	}
	return downloaded.Dir, nil
}

// source is the directory of a part in the checkout from which this program
// was built.
func source(part string) (string, error) {
	_, file, _, _ := runtime.Caller(0)
	dir := filepath.Join(filepath.Dir(file), part)
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("part %q is not at %s: run from a checkout, built without -trimpath: %w", part, dir, err)
	}
	return dir, nil
}

func version(src, module string) (string, error) {
	mod, err := os.ReadFile(filepath.Join(src, "go.mod"))
	if err != nil {
		return "", err
	}
	line := regexp.MustCompile(`(?m)^(?:require)?\s+` + regexp.QuoteMeta(module) + `\s+(v\S+)`)
	m := line.FindSubmatch(mod)
	if m == nil {
		return "", fmt.Errorf("%s/go.mod requires no %s", src, module)
	}
	return string(m[1]), nil
}

// builder builds one part.
type builder struct {
	out              io.Writer
	part, src, cache string
}

func (b builder) bin(ctx context.Context) (string, error) {
	flags, err := b.flags()
	if err != nil {
		return "", err
	}
	hash, err := b.hash(ctx, flags)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.cache, b.part+"-"+hash)
	bin := filepath.Join(dir, "bin")
	if exists(bin) {
		return bin, nil
	}
	if err := os.MkdirAll(b.cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(b.cache, b.part+".lock"), func() {
		fmt.Fprintf(b.out, "lab: waiting for another process that builds %s\n", b.part)
	})
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(bin) {
		return bin, nil
	}
	return bin, b.build(ctx, flags, dir)
}

// build makes every program of the part in a directory beside dir and gives
// it that name at the end.
func (b builder) build(ctx context.Context, flags []string, dir string) error {
	programs, err := b.programs(ctx)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(b.cache, b.part+".building-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for i, p := range programs {
		fmt.Fprintf(b.out, "lab: building %s %d/%d: %s ...\n", b.part, i+1, len(programs), p)
		start := time.Now()
		args := append(append([]string{"build"}, flags...), "-o", filepath.Join(tmp, "bin")+"/", p)
		if _, err := b.run(ctx, args...); err != nil {
			return fmt.Errorf("building %s of part %s: %w", p, b.part, err)
		}
		fmt.Fprintf(b.out, "lab: built %s in %.0f s\n", filepath.Base(p), time.Since(start).Seconds())
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// programs are the import paths of the part's main packages: its tools, or
// itself if it has a main of ours.
func (b builder) programs(ctx context.Context) ([]string, error) {
	pattern := "tool"
	if exists(filepath.Join(b.src, "main.go")) {
		pattern = "."
	}
	out, err := b.run(ctx, "list", pattern)
	if err != nil {
		return nil, fmt.Errorf("listing the programs of part %s: %w", b.part, err)
	}
	return strings.Fields(out), nil
}

// flags are the build flags of a part. Clients refuse an API server that does
// not know its own version, so Kubernetes is told what go.mod says.
func (b builder) flags() ([]string, error) {
	switch b.part {
	case "kubernetes":
		v, err := version(b.src, "k8s.io/kubernetes")
		if err != nil {
			return nil, err
		}
		number := strings.SplitN(strings.TrimPrefix(v, "v"), ".", 3)
		const at = " -X k8s.io/component-base/version."
		return []string{"-trimpath", "-ldflags", "-s -w" + at + "gitVersion=" + v + at + "gitMajor=" + number[0] + at + "gitMinor=" + number[1]}, nil
	case "containerd":
		return []string{"-trimpath", "-ldflags", "-s -w", "-tags", "no_btrfs,no_devmapper,no_zfs,no_aufs"}, nil
	}
	return []string{"-trimpath", "-ldflags", "-s -w"}, nil
}

// hash names what the part is built from.
func (b builder) hash(ctx context.Context, flags []string) (string, error) {
	env, err := b.run(ctx, "env", "GOVERSION", "GOOS", "GOARCH")
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s%q\n", env, flags)
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		data, err := os.ReadFile(filepath.Join(b.src, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(data), data)
	}
	return fmt.Sprintf("%x", h.Sum(nil))[:12], nil
}

// run runs the go command in the part's module.
func (b builder) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.src
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", args[0], b.src, err, stderr.Bytes())
	}
	return stdout.String(), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
