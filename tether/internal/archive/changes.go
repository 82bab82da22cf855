package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// whiteoutPrefix begins the name of an entry that removes what a lower layer has, from the image specification.
const whiteoutPrefix = ".wh."

// Kinds of changes, as Docker's API counts them.
const (
	changed = 0
	added   = 1
	deleted = 2
)

// change is a line of CHANGED_NAMES.
type change struct {
	Path string
	Kind int
}

// differ walks a root and what it was made of side by side. The root's disk is a copy of the other one, so a file that nobody has touched
// has the same inode, with the same time of its last change, which no process can set.
type differ struct {
	ctx   context.Context
	own   map[string]bool // names below the root
	homes map[string]bool // directories of those
	w     *writer         // of a layer; nil: names are told
	names *json.Encoder
}

func (f *Files) exportChanges(ctx context.Context, req *tetherv1.ExportRequest, to io.Writer) (*tetherv1.ExportResponse, error) {
	base, err := f.Base(ctx, req.GetBase())
	if err != nil {
		return nil, err
	}
	defer unix.Close(base)
	before, err := openDir(base, ".") // base may be O_PATH
	if err != nil {
		return nil, err
	}
	defer unix.Close(before)
	now, err := unix.Open(f.Disk, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(now)
	d := newDiffer(ctx, f.Own)
	if req.GetContent() == tetherv1.ExportRequest_CHANGES {
		d.w = newWriter(ctx, to)
		d.w.layer = true
		_, err := d.directory(before, now, "", 0)
		return d.w.finish(err)
	}
	d.names = json.NewEncoder(to)
	if _, err := d.directory(before, now, "", 0); err != nil {
		return nil, err
	}
	return &tetherv1.ExportResponse{}, nil
}

func newDiffer(ctx context.Context, own []string) *differ {
	d := &differ{ctx: ctx, own: map[string]bool{"dev": true, "proc": true, "sys": true}, homes: map[string]bool{"": true}}
	for _, name := range own {
		name = path.Clean("/" + name)[1:]
		d.own[name] = true
		if home := path.Dir(name); home != "." {
			d.homes[home] = true
		}
	}
	return d
}

// found is what one directory has that it had not before, or had before.
type found struct {
	added, changed, deleted []string
	both                    []string // directories then and now
}

// directory tells what differs between two directories and below them, and whether anything does. name is theirs below the root.
func (d *differ) directory(before, now int, name string, depth int) (differs bool, err error) {
	if err := d.ctx.Err(); err != nil {
		return false, context.Cause(d.ctx)
	}
	if depth == maxDepth {
		return false, fmt.Errorf("cannot read %.256q: %w: directories more than %d deep", name, ErrInvalid, maxDepth)
	}
	var found found
	if err := d.look(before, now, name, &found); err != nil {
		return false, err
	}
	meta, err := d.ownDiffers(before, now, name)
	if err != nil {
		return false, entryError(name, err)
	}
	differs = meta || len(found.added)+len(found.changed)+len(found.deleted) > 0
	if d.w != nil && differs {
		if err := d.w.dirHeader(now, nameOfDir(name)); err != nil {
			return false, err
		}
	}
	if err := d.tell(now, name, depth, &found); err != nil {
		return false, err
	}
	for _, child := range found.both {
		below, err := d.child(before, now, child, join(name, child), depth+1)
		if err != nil {
			return false, err
		}
		differs = differs || below
	}
	if d.names != nil && differs && name != "" {
		err = d.names.Encode(change{"/" + name, changed})
	}
	return differs, err
}

// nameOfDir is the name of a directory in a layer.
func nameOfDir(name string) string {
	if name == "" {
		return "."
	}
	return name
}

func (d *differ) child(before, now int, base, name string, depth int) (differs bool, err error) {
	old, err := openDir(before, base)
	if err != nil {
		return false, entryError(name, err)
	}
	defer unix.Close(old)
	fresh, err := openDir(now, base)
	if gone(err) {
		return false, nil // vanished meanwhile
	}
	if err != nil {
		return false, entryError(name, err)
	}
	defer unix.Close(fresh)
	return d.directory(old, fresh, name, depth)
}

// look fills found with what is right below two directories.
func (d *differ) look(before, now int, name string, found *found) error {
	err := eachName(now, name, func(child string) error {
		if ownName(join(name, child)) {
			return nil
		}
		return d.compare(before, now, child, join(name, child), found)
	})
	if err != nil {
		return err
	}
	err = eachName(before, name, func(child string) error {
		if ownName(join(name, child)) {
			return nil
		}
		var st unix.Stat_t
		err := unix.Fstatat(now, child, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			found.deleted = append(found.deleted, child)
			return nil
		}
		return err
	})
	for _, names := range [][]string{found.added, found.changed, found.deleted, found.both} {
		slices.Sort(names)
	}
	return err
}

// compare looks at one name of now.
func (d *differ) compare(before, now int, base, name string, found *found) error {
	var old, st unix.Stat_t
	if err := unix.Fstatat(now, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if gone(err) {
			return nil
		}
		return entryError(name, err)
	}
	kind := st.Mode & unix.S_IFMT
	err := unix.Fstatat(before, base, &old, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return entryError(name, err)
	}
	had := err == nil
	switch {
	case d.own[name] && (!had || old.Mode&unix.S_IFMT != kind): // the tether has put it there
	case kind == unix.S_IFSOCK: // no layer can hold it: it is as if it were not there
		if had {
			found.deleted = append(found.deleted, base)
		}
	case !had:
		found.added = append(found.added, base)
	case kind == unix.S_IFDIR && old.Mode&unix.S_IFMT == unix.S_IFDIR:
		found.both = append(found.both, base)
	case old.Ino != st.Ino || old.Ctim != st.Ctim || old.Mode != st.Mode:
		if d.w == nil && onlyLinked(&old, &st) {
			return nil
		}
		found.changed = append(found.changed, base)
	}
	return nil
}

// onlyLinked reports whether a file has got or lost another name and is the same otherwise: a layer needs it, people do not.
func onlyLinked(old, now *unix.Stat_t) bool {
	return old.Ino == now.Ino && old.Nlink != now.Nlink && old.Mtim == now.Mtim && old.Mode == now.Mode && old.Size == now.Size &&
		old.Uid == now.Uid && old.Gid == now.Gid
}

// ownDiffers reports whether a directory itself was changed: its owner, mode, attributes, or the time of its last change of names, unless the
// tether may have changed those.
func (d *differ) ownDiffers(before, now int, name string) (bool, error) {
	var old, st unix.Stat_t
	if err := errors.Join(unix.Fstat(before, &old), unix.Fstat(now, &st)); err != nil {
		return false, err
	}
	switch {
	case old.Ino == st.Ino && old.Ctim == st.Ctim:
		return false, nil
	case old.Mode != st.Mode, old.Uid != st.Uid, old.Gid != st.Gid:
		return true, nil
	case old.Mtim != st.Mtim && !d.homes[name]:
		return true, nil
	}
	then, err := allXattrs(before)
	if err != nil {
		return false, err
	}
	attrs, err := allXattrs(now)
	return !bytes.Equal(then, attrs), err
}

// allXattrs is what a directory has of attributes, in a form to compare.
func allXattrs(dir int) ([]byte, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	names, err := listXattrs(func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) })
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []byte
	for _, name := range names {
		value, err := xattr(name, func(attr string, buf []byte) (int, error) { return unix.Fgetxattr(fd, attr, buf) })
		if err != nil {
			return nil, err
		}
		all = fmt.Appendf(all, "%q=%q\n", name, value)
	}
	return all, nil
}

// tell writes what was found right below a directory.
func (d *differ) tell(now int, name string, depth int, found *found) error {
	if d.w == nil {
		return d.tellNames(now, name, depth, found)
	}
	for _, child := range found.deleted {
		if err := d.w.write(&tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: join(name, whiteoutPrefix+child)}); err != nil {
			return err
		}
	}
	for _, children := range [][]string{found.changed, found.added} {
		for _, child := range children {
			if err := d.w.entry(now, child, join(name, child), depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *differ) tellNames(now int, name string, depth int, found *found) error {
	for _, child := range found.deleted {
		if err := d.names.Encode(change{"/" + join(name, child), deleted}); err != nil {
			return err
		}
	}
	for _, child := range found.changed {
		if err := d.names.Encode(change{"/" + join(name, child), changed}); err != nil {
			return err
		}
		if err := d.addedBelow(now, child, join(name, child), depth+1); err != nil {
			return err
		}
	}
	for _, child := range found.added {
		if err := d.names.Encode(change{"/" + join(name, child), added}); err != nil {
			return err
		}
		if err := d.addedBelow(now, child, join(name, child), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// addedBelow tells of all that is in a directory that is new. Anything else has nothing below it.
func (d *differ) addedBelow(dir int, base, name string, depth int) error {
	if d.ctx.Err() != nil {
		return context.Cause(d.ctx)
	}
	fd, err := openDir(dir, base)
	if gone(err) {
		return nil
	}
	if err != nil {
		return entryError(name, err)
	}
	defer unix.Close(fd)
	if depth == maxDepth {
		return fmt.Errorf("cannot read %.256q: %w: directories more than %d deep", name, ErrInvalid, maxDepth)
	}
	return eachName(fd, name, func(child string) error {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, child, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			return nil // it is gone, or nothing that a layer holds
		}
		if err := d.names.Encode(change{"/" + join(name, child), added}); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil
		}
		return d.addedBelow(fd, child, join(name, child), depth+1)
	})
}
