package process

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// rights are less than a process has otherwise.
type rights struct {
	drop            []capability.Cap // from its bounding set
	noNewPrivileges bool
}

// restricted reports whether p is to have less than all rights: the thread that forks it loses them, too.
func restricted(p *tetherv1.Process) bool {
	return p.GetCapabilities() != nil || p.GetNoNewPrivileges()
}

// rightsOf decodes what p may have; nil: all.
func rightsOf(p *tetherv1.Process) (*rights, error) {
	if !restricted(p) {
		return nil, nil
	}
	r := &rights{noNewPrivileges: p.NoNewPrivileges}
	if p.Capabilities == nil {
		return r, nil
	}
	kept := slices.Clone(p.Capabilities.Names)
	for _, known := range capability.ListKnown() {
		name := "CAP_" + strings.ToUpper(known.String())
		if i := slices.Index(kept, name); i >= 0 {
			kept = slices.DeleteFunc(kept, func(k string) bool { return k == name })
			continue
		}
		r.drop = append(r.drop, known)
	}
	if len(kept) > 0 {
		return nil, fmt.Errorf("unknown capability %q", kept[0])
	}
	return r, nil
}

// limit takes from the calling thread what its children are not to have. The thread itself keeps its effective capabilities, by which
// the child becomes its user; execve(2) makes of root's what the bounding set leaves, and of any other user's none (capabilities(7)).
func (r *rights) limit() error {
	if r == nil {
		return nil
	}
	for _, c := range r.drop {
		if err := capability.DropBound(c); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: this kernel has it not
			return fmt.Errorf("cannot take capability %s from the process: %w", c, err)
		}
	}
	if r.noNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("cannot keep the process from new privileges: %w", err)
		}
	}
	return nil
}
