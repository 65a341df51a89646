package logging

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// Problems are what a daemon cannot do now and tries again, while it does everything else.
type Problems struct {
	Log   *slog.Logger
	texts sync.Map // by what cannot be done
}

// Note keeps why something cannot be done, nil if it can, and logs it once.
func (p *Problems) Note(what string, why error) {
	if why == nil {
		p.texts.Delete(what)
		return
	}
	text := fmt.Sprintf("%s: %v", what, why)
	if before, _ := p.texts.Swap(what, text); before != text {
		p.Log.Error(text)
	}
}

// Problem says what cannot be done and why, or returns an empty text. For readiness.
func (p *Problems) Problem() string {
	var texts []string
	p.texts.Range(func(_, text any) bool { texts = append(texts, text.(string)); return true })
	slices.Sort(texts)
	return strings.Join(texts, "; ")
}
