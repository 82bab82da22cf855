// Package journal keeps a small set of JSON documents on disk so that what was promised survives a crash at any point.
//
// Every change is written to the end of one file; Commit also waits for its fsync. When the file has grown to several
// times its live content it is written anew beside the old one and renamed over it. A torn tail, which a crash leaves, is
// cut off when the journal is opened; damage before the last record is an error, because something that was promised is lost.
//
// On a full disk it goes on in a file whose blocks are set aside (package spare), in which there is room for what removals have to write. When that
// is full too a change fails, and changes nothing; what comes later is tried anew, so the journal works again by itself when there is space.
package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/containervm/containervm/hostd-bridge/internal/spare"
)

const (
	// minCompact is the size in bytes below which a journal is never compacted.
	minCompact = 1 << 20
	// minSpare is how many bytes are set aside for the next file at least: with room for a thousand changes behind the documents.
	minSpare = 4 << 20
)

// Journal is an open journal. Its methods may be called by several goroutines.
type Journal struct {
	path string
	dir  *os.Root

	mu      sync.Mutex
	file    *os.File
	spare   *spare.File
	docs    map[string]json.RawMessage
	size    int64 // of the file
	live    int64 // of the documents in it
	closed  bool
	broken  error         // nothing can be promised of the file any more: another one takes its place before the next record
	written int           // records, in the life of this value
	synced  int           // how many of them are known to be on the disk
	syncing chan struct{} // closed when the fsync in flight has ended; nil: there is none
}

// Open reads the journal at path, creating it when it is missing.
func Open(path string) (*Journal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the journal: %w", err)
	}
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot open the journal's directory: %w", err)
	}
	j := &Journal{path: path, dir: dir, file: file, docs: map[string]json.RawMessage{}}
	if err := j.load(); err != nil {
		file.Close()
		dir.Close()
		return nil, fmt.Errorf("cannot read the journal %s: %w", path, err)
	}
	// Of what the journal goes on in: before it is needed, as far as there is room.
	j.spare = spare.New(dir, filepath.Base(path)+".spare", minSpare)
	j.prepareLocked()
	return j, syncDir(path)
}

// prepareLocked sets the next file aside, if it can; the caller holds mu, or is alone.
func (j *Journal) prepareLocked() {
	j.spare.Resize(2 * j.live)
	_ = j.spare.Make() // without one a journal on a full disk is full, and says so
}

func (j *Journal) load() error {
	r := bufio.NewReader(j.file)
	for {
		changes, n, err := readRecord(r)
		if err == io.EOF {
			return nil
		}
		if errors.Is(err, errTorn) {
			return j.cutTail()
		}
		if err != nil {
			return err
		}
		j.apply(changes)
		j.size += n
	}
}

// cutTail drops what follows the last whole record, if that is what a crash leaves: one record that was being written.
// A whole record found behind the damage means that the disk, not a crash, ate something.
func (j *Journal) cutTail() error {
	rest := make([]byte, 1<<20)
	n, err := j.file.ReadAt(rest, j.size)
	if err != nil && err != io.EOF {
		return err
	}
	if next, found := findRecord(rest[:n]); found {
		return fmt.Errorf("damaged at byte %d, but intact again at %d: restore the file from a backup", j.size, j.size+int64(next))
	}
	if err := j.file.Truncate(j.size); err != nil {
		return err
	}
	return j.file.Sync()
}

// apply changes the documents in memory; live counts only what a compacted file would hold.
func (j *Journal) apply(changes []Change) {
	for _, c := range changes {
		j.live -= int64(len(j.docs[c.Key]))
		if len(c.Value) == 0 {
			delete(j.docs, c.Key)
			continue
		}
		j.docs[c.Key] = c.Value
		j.live += int64(len(c.Value))
	}
}

// Documents returns all documents by their keys.
func (j *Journal) Documents() map[string]json.RawMessage {
	j.mu.Lock()
	defer j.mu.Unlock()
	return maps.Clone(j.docs)
}

// Commit writes the changes as one record: after a crash either all of them are there or none. It returns when they and
// everything written before are on the disk.
func (j *Journal) Commit(changes ...Change) error {
	if err := j.Write(changes...); err != nil {
		return err
	}
	return j.Sync()
}

// Write is Commit without the wait for the disk: the record survives the death of this process, but not of the host.
func (j *Journal) Write(changes ...Change) error {
	record, err := appendRecord(nil, changes)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.mendLocked(); err != nil {
		return err
	}
	if err := j.appendLocked(record); err != nil {
		// What is set aside takes the documents, and then the record.
		if j.rescueLocked() != nil || j.appendLocked(record) != nil {
			return fmt.Errorf("cannot write the journal %s: %w", j.path, err)
		}
	}
	j.written++
	j.apply(changes)
	if j.size > minCompact && j.size > 4*j.live {
		_ = j.compactLocked() // the file is as good as before, if it cannot be
	}
	j.prepareLocked()
	return nil
}

// appendLocked writes a record to the end of the file, or leaves the file as it was. The caller holds mu.
func (j *Journal) appendLocked(record []byte) error {
	n, err := j.file.WriteAt(record, j.size)
	if err == nil {
		j.size += int64(n)
		return nil
	}
	if n > 0 { // a start would cut it off; a record that was written over a part of it would be damage
		if cut := j.file.Truncate(j.size); cut != nil {
			j.broken = cut
		}
	}
	return err
}

// mendLocked makes a journal usable that is not. The caller holds mu.
func (j *Journal) mendLocked() error {
	if j.closed {
		return errors.New("the journal is closed")
	}
	if j.broken == nil {
		return nil
	}
	if err := j.rescueLocked(); err != nil {
		return fmt.Errorf("cannot write the journal %s: %w; it failed before: %w", j.path, err, j.broken)
	}
	return nil
}

// Sync returns when everything that was written before is on the disk. Those who wait at the same time share an fsync.
func (j *Journal) Sync() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for want := j.written; j.synced < want; {
		if err := j.mendLocked(); err != nil {
			return err
		}
		if other := j.syncing; other != nil {
			j.mu.Unlock()
			<-other
			j.mu.Lock()
			continue
		}
		j.syncLocked()
	}
	return nil
}

// syncLocked syncs the file for everyone. The caller holds mu, and others get it during the fsync.
func (j *Journal) syncLocked() {
	file, upTo, done := j.file, j.written, make(chan struct{})
	j.syncing = done
	j.mu.Unlock()
	err := file.Sync()
	j.mu.Lock()
	j.syncing = nil
	close(done)
	switch {
	case file != j.file: // it was compacted meanwhile, which has synced everything
	case err != nil: // whoever waits mends it: nobody knows what of the file is on the disk (fsync(2))
		j.broken = err
	default:
		j.synced = max(j.synced, upTo)
	}
}

// compactLocked puts a file with one record for each document in the old one's place. The caller holds mu, also during the fsync of the
// new file: what is written meanwhile would be missing there.
func (j *Journal) compactLocked() error {
	file, err := j.dir.OpenFile(filepath.Base(j.path)+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot compact the journal %s: %w", j.path, err)
	}
	return j.replaceLocked(file)
}

// rescueLocked is compactLocked for a full disk, or a file that failed: it uses what is set aside, if that is there. It is not for every day: an fsync
// of what is written into blocks that were set aside may take longer. The caller holds mu.
func (j *Journal) rescueLocked() error {
	file, err := j.spare.Take()
	if err != nil {
		return j.compactLocked()
	}
	return j.replaceLocked(file)
}

// replaceLocked writes the documents into an empty file and renames it over the journal, so that a crash leaves the old content or the new one.
// What is set aside behind them stays so, for the records that follow. The caller holds mu.
func (j *Journal) replaceLocked(file *os.File) error {
	var data []byte
	var err error
	for key, value := range j.docs {
		if data, err = appendRecord(data, []Change{{Key: key, Value: value}}); err != nil {
			break
		}
	}
	if err == nil {
		_, err = file.WriteAt(data, 0)
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = j.dir.Rename(filepath.Base(file.Name()), filepath.Base(j.path))
	}
	if err == nil {
		err = syncDir(j.path)
	}
	if err != nil {
		file.Close()
		_ = j.dir.Remove(filepath.Base(file.Name())) // it takes space that there is not; the next one may succeed
		return fmt.Errorf("cannot write the journal %s anew: %w", j.path, err)
	}
	j.file.Close()
	j.file, j.size, j.synced, j.broken = file, int64(len(data)), j.written, nil
	return nil
}

// Close closes the file; later appends fail.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	return errors.Join(j.file.Close(), j.dir.Close())
}

// syncDir makes the name path itself durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
