package main

import (
	"slices"
	"testing"

	"github.com/spidernet-io/spiderpool/internal/config"
	"github.com/spidernet-io/spiderpool/internal/pool"
)

// TestFamilies: a family that is switched off is served to nobody.
func TestFamilies(t *testing.T) {
	for _, tc := range []struct {
		conf config.Config
		want []pool.Family
	}{
		{config.Config{EnableIPv4: true, EnableIPv6: true}, []pool.Family{pool.IPv4, pool.IPv6}},
		{config.Config{EnableIPv4: true}, []pool.Family{pool.IPv4}},
		{config.Config{EnableIPv6: true}, []pool.Family{pool.IPv6}},
	} {
		if got := families(tc.conf); !slices.Equal(got, tc.want) {
			t.Errorf("%+v: %v", tc.conf, got)
		}
	}
}
