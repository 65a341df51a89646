package lease

import "testing"

// rows are the table of Decide's comment; the first that fits holds.
var rows = []struct {
	name string
	fits func(f Finding) bool
	want Verdict
}{
	{"unknown, deleted", func(f Finding) bool { return !f.Known && f.Attachment == Deleted }, Release},
	{"unknown, beside a confirmed sibling", func(f Finding) bool { return !f.Known && f.Sibling && f.Settled }, Release},
	{"unknown", func(f Finding) bool { return !f.Known }, Adopt},
	{"its ADD or DEL is in progress", func(f Finding) bool { return f.Attachment == Adding || f.Attachment == Deleting }, Again},
	{"not there, not told, in doubt", func(f Finding) bool { return f.absent() && f.Told == No && f.InDoubt }, Again},
	{"not there, not told", func(f Finding) bool { return f.absent() && f.Told == No }, Forget},
	{"not there, gone or deleted, in doubt", func(f Finding) bool { return f.absent() && (f.Gone || f.Attachment == Deleted) && f.InDoubt }, Again},
	{"not there, gone or deleted", func(f Finding) bool { return f.absent() && (f.Gone || f.Attachment == Deleted) }, Forget},
	{"not there", func(f Finding) bool { return f.absent() }, Recreate},
	{"deleted", func(f Finding) bool { return f.Attachment == Deleted }, Release},
	{"not told, in doubt", func(f Finding) bool { return f.Told == No && f.InDoubt }, Again},
	{"not told", func(f Finding) bool { return f.Told == No }, Release},
	{"in quarantine, namespace and pod there", func(f Finding) bool { return f.Quarantined && f.PodThere && !f.Gone }, Restore},
	{"namespace there", func(f Finding) bool { return !f.Gone }, Keep},
	{"gone in two looks, or unlisted", func(f Finding) bool { return f.GoneBefore || f.Unlisted }, Release},
	{"gone in one look", func(Finding) bool { return true }, Again},
}

func (f Finding) absent() bool { return f.Listed && !f.Stands }

// never are the combinations that would give an address to two, or take it from one that bears it, or keep it for nobody.
var never = []struct {
	name  string
	wrong func(f Finding, v Verdict) bool
}{
	{"an address that was told, or may have been, is released while its namespace is there", func(f Finding, v Verdict) bool {
		return v == Release && f.Known && f.Told != No && !f.Gone && f.Attachment != Deleted
	}},
	{"a namespace that was gone in one look alone costs an address that stands", func(f Finding, v Verdict) bool {
		return v == Release && f.Known && f.Told != No && !f.GoneBefore && !f.Unlisted && f.Attachment != Deleted
	}},
	{"an entry that is not known is released without proof", func(f Finding, v Verdict) bool {
		return v == Release && !f.Known && f.Attachment != Deleted && (!f.Sibling || !f.Settled)
	}},
	{"an entry is made for a container that is gone, deleted or was not told", func(f Finding, v Verdict) bool {
		return v == Recreate && (f.Gone || f.Attachment == Deleted || f.Told == No)
	}},
	{"an entry is made that stands, or was not looked for", func(f Finding, v Verdict) bool {
		return v == Recreate && (f.Stands || !f.Listed)
	}},
	{"an entry is taken out of quarantine without proof that its pod is there and its container lives", func(f Finding, v Verdict) bool {
		return v == Restore && (!f.Quarantined || !f.PodThere || f.Gone || f.Attachment == Deleted || f.Told == No || !f.Known)
	}},
	{"a lease is touched while its ADD or DEL is in progress", func(f Finding, v Verdict) bool {
		return f.Known && (f.Attachment == Adding || f.Attachment == Deleting) && v != Again
	}},
	{"a lease is forgotten of which something stands, may stand or may come", func(f Finding, v Verdict) bool {
		return v == Forget && (f.Stands || !f.Listed || f.InDoubt)
	}},
	{"a lease is adopted, or an entry that is not known is neither adopted nor released", func(f Finding, v Verdict) bool {
		return f.Known && v == Adopt || !f.Known && v != Adopt && v != Release
	}},
	{"an address that nobody was told is kept", func(f Finding, v Verdict) bool {
		return f.Known && f.Told == No && v == Keep
	}},
	{"an address is kept whose container is gone", func(f Finding, v Verdict) bool {
		return f.Known && v == Keep && (f.Gone || f.Attachment == Deleted)
	}},
	{"the audit waits though nothing is in progress, in doubt or seen gone once", func(f Finding, v Verdict) bool {
		return v == Again && f.Attachment != Adding && f.Attachment != Deleting && !f.InDoubt && (!f.Gone || f.GoneBefore || f.Unlisted)
	}},
}

// findings generates every combination that can be: what is not known was found in a LIST, and what was not looked for was
// not found.
func findings(yield func(Finding) bool) {
	for bits := range 1 << 11 {
		is := func(bit int) bool { return bits>>bit&1 == 1 }
		for _, told := range []Told{Unknown, No, Yes} {
			for state := Absent; state <= Deleted; state++ {
				f := Finding{is(0), is(1), is(2), told, is(3), is(4), is(9), is(10), state, is(5), is(6), is(7), is(8)}
				if f.Stands && !f.Listed || !f.Known && !f.Stands {
					continue
				}
				if !yield(f) {
					return
				}
			}
		}
	}
}

// TestDecide holds Decide to its table and to what must never be, in every combination.
func TestDecide(t *testing.T) {
	reached, n := map[string]int{}, 0
	for f := range findings {
		n++
		got := Decide(f)
		for _, row := range rows {
			if row.fits(f) {
				if reached[row.name]++; got != row.want {
					t.Errorf("%s: verdict %d, want %d: %+v", row.name, got, row.want, f)
				}
				break
			}
		}
		for _, rule := range never {
			if rule.wrong(f, got) {
				t.Errorf("%s: verdict %d: %+v", rule.name, got, f)
			}
		}
		if t.Failed() && n > 1000 {
			break
		}
	}
	for _, row := range rows {
		if reached[row.name] == 0 {
			t.Errorf("no finding is decided by the row %q", row.name)
		}
	}
}

// TestDecideConverges: looks that find the same end: what is seen gone a second time is not looked at for ever.
func TestDecideConverges(t *testing.T) {
	for f := range findings {
		if !f.Known || f.InDoubt || f.Attachment == Adding || f.Attachment == Deleting || Decide(f) != Again {
			continue
		}
		f.GoneBefore = f.Gone
		if v := Decide(f); v == Again {
			t.Errorf("the second look says again: %+v", f)
		}
	}
}
