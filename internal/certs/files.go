package certs

import (
	"context"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
)

// readFiles serves what stands in the files until ctx ends. They may be missing or broken for now: what was read before
// is served on.
func (c *Certs) readFiles(ctx context.Context) error {
	retry := firstRetry
	for {
		files, err := certwatcher.New(c.CertFile, c.KeyFile)
		if err == nil {
			c.files.Store(files)
			retry = firstRetry
			err = files.Start(ctx)
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to end
		}
		c.Log.Warn("cannot read the certificate of the webhooks, trying again", "from", c.source(), "error", err, "after", retry.String())
		select {
		case <-time.After(retry):
		case <-ctx.Done():
		}
		retry = min(2*retry, lastRetry)
	}
}
