package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// birth is a clone that is under way.
type birth struct {
	s        *entry // the source
	src      *VM    // as it was at the beginning
	e        *entry // the child
	prepared *prepared
	disk     *DiskChange
	release  func() // lets others operate on the source
}

// fork brings an allocated VM to life. What was prepared for it is used up, also when it fails.
func (i *Inventory) fork(ctx context.Context, b *birth) (err error) {
	defer func() {
		if b.prepared != nil {
			i.discard(b.prepared)
		}
	}()
	if err := i.reserve(b.e, forkCost(b.src)); err != nil {
		return err
	}
	t, disk, err := i.forkPoint(ctx, b)
	if err != nil {
		return err
	}
	if t != nil {
		defer i.closeTemplate(t)
	}
	if b.disk, err = i.planChildDisk(b.e, b.disk, disk); err != nil {
		return err
	}
	synced := make(chan error, 1)
	i.ops.Go(func() { synced <- i.opt.Journal.Sync() }) // while the machine comes to life; awake waits for it, or it ends unheard
	if b.src.Frozen {                                   // else what it writes to its log from now on would be the child's too
		b.release()
	}
	if err := i.furnish(ctx, b.src, b.e, b.disk); err != nil {
		return err
	}
	b.release()
	return i.awake(ctx, b, t, synced)
}

// forkPoint returns the memory that a child goes on with, nil for one that was prepared, and the kept disk that the child's
// is to be a delta of, or "".
func (i *Inventory) forkPoint(ctx context.Context, b *birth) (t Template, disk string, err error) {
	m, err := i.Machine(b.src.Ref)
	if err != nil {
		return nil, "", err
	}
	disk = b.src.Point
	if b.src.Disk != nil && disk == "" {
		if disk, err = i.keepDisk(ctx, b.s); err != nil {
			return nil, "", err
		}
	}
	switch {
	case b.prepared != nil:
		return nil, disk, nil
	case b.src.Frozen:
		t, err = m.Template(ctx)
	default:
		t, err = m.Snapshot(ctx, i.hostDisk(b.src))
	}
	if err != nil {
		return nil, "", fmt.Errorf("cannot take the fork point: %w", err)
	}
	return t, disk, nil
}

func (i *Inventory) closeTemplate(t Template) {
	if err := t.Close(); err != nil {
		i.opt.Log.Warn("cannot let go of a fork point", "err", err)
	}
}

// awake gives a child its identity and lets it go on. It returns when the journal has what was noted of it so far.
func (i *Inventory) awake(ctx context.Context, b *birth, t Template, synced <-chan error) error {
	select {
	case i.forking <- struct{}{}:
		defer func() { <-i.forking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	v := i.snapshot(b.e)
	if b.prepared == nil {
		var err error
		if b.prepared, err = i.prepare(ctx, t, childSpec(b.src), v.CID); err != nil {
			return err
		}
	}
	p := b.prepared
	b.prepared = nil // nothing is left of it when it cannot start
	m, err := p.child.Start(ctx, i.identity(v))
	if err != nil {
		return errors.Join(err, os.RemoveAll(p.dir))
	}
	if err = <-synced; err == nil {
		err = i.began(b.e, m, noted)
	}
	if err != nil {
		return errors.Join(err, m.Kill(context.WithoutCancel(ctx)), m.Close())
	}
	return nil
}
