package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spidernet-io/spiderpool/test/lab/parts"
)

// Snapshot writes what etcd holds now to a file, as `etcdctl snapshot save` does.
func (s *Server) Snapshot(ctx context.Context, file string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, loopbackURL(s.EtcdPorts[0])+"/v3/maintenance/snapshot", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	for stream := json.NewDecoder(answer.Body); err == nil; {
		var piece struct{ Result struct{ Blob []byte } }
		if err = stream.Decode(&piece); err == nil {
			_, err = f.Write(piece.Result.Blob)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// Restore puts etcd back to a snapshot while the API server is stopped, and
// returns when that is ready again. Revisions go on from those of the snapshot,
// which have been used since for other writes; or, if bump is not 0, so much
// later, and no watch can go on, as Kubernetes recommends.
func (s *Server) Restore(ctx context.Context, file string, bump uint64) error {
	bin, err := parts.Bin(ctx, os.Stderr, "etcdutl")
	if err != nil {
		return err
	}
	if err := errors.Join(s.StopAPI(ctx), s.etcd.Stop(ctx, stopGrace), os.RemoveAll(s.file("etcd"))); err != nil {
		return err
	}
	peers := loopbackURL(s.EtcdPorts[1])
	args := []string{"snapshot", "restore", file, "--data-dir=" + s.file("etcd"), "--initial-advertise-peer-urls=" + peers, "--initial-cluster=default=" + peers}
	if bump > 0 {
		args = append(args, "--mark-compacted", "--bump-revision="+strconv.FormatUint(bump, 10))
	}
	if out, err := exec.CommandContext(ctx, filepath.Join(bin, "etcdutl"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("etcdutl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return s.start(ctx)
}
