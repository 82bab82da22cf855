// Package journal keeps a small set of JSON documents on disk so that what was promised survives a crash at any point.
//
// Every change is written to the end of one file; Commit also waits for its fsync. When the file has grown to several
// times its live content it is written anew beside the old one and renamed over it. A torn tail, which a crash leaves, is
// cut off when the journal is opened; damage before the last record is an error, because something that was promised is lost.
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
)

// minCompact is the size in bytes below which a journal is never compacted.
const minCompact = 1 << 20

// Journal is an open journal. Its methods may be called by several goroutines.
type Journal struct {
	path string

	mu      sync.Mutex
	file    *os.File
	docs    map[string]json.RawMessage
	size    int64         // of the file
	live    int64         // of the documents in it
	err     error         // what made the file unusable: nothing can be promised any more
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
	j := &Journal{path: path, file: file, docs: map[string]json.RawMessage{}}
	if err := j.load(); err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot read the journal %s: %w", path, err)
	}
	return j, syncDir(path)
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
	if _, err := j.file.Seek(j.size, io.SeekStart); err != nil {
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
	if j.err != nil {
		return j.err
	}
	n, err := j.file.Write(record)
	j.size += int64(n)
	if err != nil {
		return j.brokenLocked(err)
	}
	j.written++
	j.apply(changes)
	if j.size > minCompact && j.size > 4*j.live {
		return j.compactLocked()
	}
	return nil
}

// brokenLocked makes the journal unusable. The caller holds mu.
func (j *Journal) brokenLocked(err error) error {
	j.err = fmt.Errorf("cannot write the journal %s: %w", j.path, err)
	return j.err
}

// Sync returns when everything that was written before is on the disk. Those who wait at the same time share an fsync.
func (j *Journal) Sync() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for want := j.written; j.synced < want; {
		if j.err != nil {
			return j.err
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
	case err != nil:
		_ = j.brokenLocked(err) // whoever waits finds it
	default:
		j.synced = max(j.synced, upTo)
	}
}

// compactLocked writes a file with one record for each document, and puts it in the old one's place. The caller holds mu, also
// during the fsync of the new file: what is written meanwhile would be missing there.
func (j *Journal) compactLocked() error {
	changes := make([]Change, 0, len(j.docs))
	for key, value := range j.docs {
		changes = append(changes, Change{Key: key, Value: value})
	}
	var data []byte
	for _, c := range changes {
		var err error
		if data, err = appendRecord(data, []Change{c}); err != nil {
			return err
		}
	}
	file, err := replace(j.path, data)
	if err != nil {
		return fmt.Errorf("cannot compact the journal %s: %w", j.path, err)
	}
	j.file.Close()
	j.file, j.size, j.synced = file, int64(len(data)), j.written
	return nil
}

// replace puts data in path's place so that a crash leaves the old content or the new one, and returns the open file.
func replace(path string, data []byte) (*os.File, error) {
	file, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err == nil {
		err = syncDir(path)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// Close closes the file; later appends fail.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.err = errors.New("the journal is closed")
	return j.file.Close()
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
