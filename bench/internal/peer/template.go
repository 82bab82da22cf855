package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Template is a machine frozen in files: its memory, and the state of its devices beside it. Children map the memory
// privately, so only what they write becomes theirs.
type Template struct {
	machine Machine
	memory  string
	state   string
	extra   []string // arguments of its devices, which children need too
}

// NewTemplate boots a machine, has it write to so many MiB of its memory, and freezes it into dir, which should be on a
// tmpfs. The machine ends; the files must stay unchanged as long as there are children.
func (m Machine) NewTemplate(ctx context.Context, dir, name string, dirtyMiB int, extra ...string) (t *Template, err error) {
	t = &Template{machine: m, memory: filepath.Join(dir, name+".ram"), state: filepath.Join(dir, name+".state"), extra: extra}
	v, err := m.booted(ctx, ram{path: t.memory, shared: true}, dirtyMiB, extra...)
	if err != nil {
		return nil, fmt.Errorf("cannot make template %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, v.end()) }()
	if err := v.save(t.state, true); err != nil {
		return nil, fmt.Errorf("cannot freeze template %s: %w", name, err)
	}
	return t, nil
}

// Remove deletes the template's files.
func (t *Template) Remove() error { return errors.Join(os.Remove(t.memory), os.Remove(t.state)) }

// save stops a machine and writes its state to a file: all of it, or without the memory that is in a shared file already.
func (v *vm) save(path string, ignoreShared bool) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := v.qmp.run("stop", nil); err != nil {
		return err
	}
	return v.saveTo(f, ignoreShared)
}

// saveTo writes the state of a machine that is stopped.
func (v *vm) saveTo(f *os.File, ignoreShared bool) error {
	if err := v.qmp.capabilities(ignoreShared); err != nil {
		return err
	}
	// The default limit is that of a network of 2009.
	if err := v.qmp.run("migrate-set-parameters", map[string]any{"max-bandwidth": int64(1) << 40}); err != nil {
		return err
	}
	if err := v.qmp.runWith("getfd", map[string]string{"fdname": "state"}, f); err != nil {
		return err
	}
	if err := v.qmp.run("migrate", map[string]string{"uri": "fd:state"}); err != nil {
		return err
	}
	return v.qmp.migrated()
}
