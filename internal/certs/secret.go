package certs

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// requestTimeout bounds the requests of one look together.
	requestTimeout = 30 * time.Second
	// firstRetry and lastRetry lie between two tries of what failed.
	firstRetry, lastRetry = time.Second, 30 * time.Second
	// untilRead is how often it is looked whether the watches have brought anything.
	untilRead = 200 * time.Millisecond
	// longestRest is how long nothing is looked at when nothing happens: clocks are set.
	longestRest = time.Hour
)

// keep does what is due whenever something has changed, and in time, until ctx ends.
func (c *Certs) keep(ctx context.Context) {
	retry := firstRetry
	for ctx.Err() == nil {
		rest, err := c.step(ctx)
		if err == nil {
			retry = firstRetry
		} else if ctx.Err() == nil {
			c.Log.Warn("cannot keep the certificate of the webhooks, trying again", "error", err, "after", retry.String())
			rest, retry = retry, min(2*retry, lastRetry)
		}
		timer := time.NewTimer(rest)
		select {
		case <-c.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// look has keep look again.
func (c *Certs) look() {
	select {
	case c.wake <- struct{}{}:
	default: // it will anyway
	}
}

// step serves what the watches have brought, and says how long there is nothing to do. If there is, it is decided again
// on live reads: a watch may be late, and must not undo what another replica did.
func (c *Certs) step(ctx context.Context) (rest time.Duration, err error) {
	if !c.secret.HasSynced() {
		return untilRead, nil
	}
	var secret *corev1.Secret
	if o, ok, _ := c.secret.GetStore().GetByKey(c.Namespace + "/" + c.Secret); ok {
		secret = o.(*corev1.Secret)
		c.owned = len(secret.OwnerReferences) > 0
	}
	v := c.known(secret, c.webhooks.watched())
	c.adopt(v)
	if !c.webhooks.synced() {
		return untilRead, nil
	}
	d := c.decide(v)
	if d.authority != nil && !d.sign {
		data, err := c.secretData(d, v.secret, v.now)
		if err == nil && equal(data, v.secret) && !slices.ContainsFunc(v.injected, func(b []byte) bool { return !bytes.Equal(b, data[caCert]) }) {
			return c.rest(d, v.now), nil
		}
	}
	if err := c.pace.Wait(ctx); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return firstRetry, c.write(ctx)
}

// write does what is due. The configurations are read before the Secret and written on the condition that they are still
// what was read, so the bundle that they get is never older than the one that they have.
func (c *Certs) write(ctx context.Context) error {
	configs, err := c.webhooks.live(ctx)
	if err != nil {
		return fmt.Errorf("read the webhook configurations %s: %w", c.Webhooks, err)
	}
	secret, err := c.secrets.Get(ctx, c.Secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		secret, err = nil, nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", c.source(), err)
	}
	v := c.known(secret, configs)
	d := c.decide(v)
	data, err := c.secretData(d, v.secret, v.now)
	if err != nil {
		return err
	}
	if !equal(data, v.secret) {
		err := c.writeSecret(ctx, secret, data)
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			return nil // another replica was quicker
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", c.source(), err)
		}
		c.Log.Info("wrote the certificate of the webhooks", "to", c.source(), "newAuthority", d.authority == nil, "newCertificate", d.sign)
	}
	written, err := c.webhooks.inject(ctx, configs, data[caCert])
	if len(written) > 0 {
		c.Log.Info("wrote caBundle", "into", written, "name", c.Webhooks)
	}
	return err
}

// writeSecret makes the Secret, or updates it if it is still what was read. Its type, if another made it, cannot change.
func (c *Certs) writeSecret(ctx context.Context, was *corev1.Secret, data map[string][]byte) (err error) {
	if was == nil {
		owners, err := c.owners(ctx)
		if err != nil {
			return err
		}
		made := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: c.Secret, Namespace: c.Namespace, OwnerReferences: owners}, Type: corev1.SecretTypeTLS, Data: data}
		_, err = c.secrets.Create(ctx, made, metav1.CreateOptions{})
		return err
	}
	changed := was.DeepCopy()
	changed.Data = data
	_, err = c.secrets.Update(ctx, changed, metav1.UpdateOptions{})
	return err
}

// owners is the Deployment of the controller, if there is one: with it the Secret is garbage. It fails if there was one: the
// garbage collector took the Secret, and of this process, which is about to end, another would stay.
func (c *Certs) owners(ctx context.Context) ([]metav1.OwnerReference, error) {
	d, err := c.deployments.Get(ctx, c.Deployment, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && !c.owned {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Deployment %s/%s: %w", c.Namespace, c.Deployment, err)
	}
	return []metav1.OwnerReference{{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment", Name: d.Name, UID: d.UID}}, nil
}

// known is what is known now. A bundle that changes has been in force for no time.
func (c *Certs) known(secret *corev1.Secret, configs configurations) view {
	v := view{serving: c.serving.Load(), injected: configs.injected(), now: time.Now()}
	if secret != nil {
		v.secret = secret.Data
	}
	if !slices.EqualFunc(v.injected, c.inForce, bytes.Equal) || c.since.IsZero() {
		c.inForce, c.since = v.injected, time.Now()
	}
	v.settled = time.Since(c.since) >= c.Settle
	return v
}

// adopt serves the certificate of the Secret, but not one that the webhooks do not accept yet in place of one that they
// do.
func (c *Certs) adopt(v view) {
	p := parsePair(v.secret[corev1.TLSCertKey], v.secret[corev1.TLSPrivateKeyKey])
	if p == nil || v.serving != nil && bytes.Equal(p.certPEM, v.serving.certPEM) {
		return
	}
	if c.accept(v.injected, v.serving, v.now) && !c.accept(v.injected, p, v.now) {
		return
	}
	c.serving.Store(p)
	c.Log.Info("serving a certificate", "from", c.source(), "serial", p.Leaf.SerialNumber, "until", p.Leaf.NotAfter)
}

// rest is how long nothing will be due if nothing changes.
func (c *Certs) rest(d decision, now time.Time) time.Duration {
	rest := longestRest
	for _, due := range []time.Time{renewal(d.authority.Cert), renewal(d.pair.Leaf)} {
		rest = min(rest, due.Sub(now))
	}
	if d.waiting {
		rest = c.Settle - time.Since(c.since)
	}
	return max(rest, 0)
}

func equal(a, b map[string][]byte) bool { return maps.EqualFunc(a, b, bytes.Equal) }
