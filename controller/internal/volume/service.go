package volume

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/feed"
	"github.com/containervm/containervm/controller/internal/indexfile"
	"github.com/containervm/containervm/controller/internal/vsphere"
)

// Host is what volumes need of a vSphere host: *vsphere.Client. To delete a disk that is gone is no error.
type Host interface {
	Upload(ctx context.Context, path string, r io.Reader) error
	Download(ctx context.Context, path string) (io.ReadCloser, error)
	MakeDirectory(ctx context.Context, path string) error
	ListFiles(ctx context.Context, dir string) ([]vsphere.FileInfo, error)
	Stat(ctx context.Context, path string) (vsphere.FileInfo, error)
	CopyDisk(ctx context.Context, from, to string) error
	ExtendDisk(ctx context.Context, path string, size int64) error
	DeleteDisk(ctx context.Context, path string) error
	Boot() vsphere.BootFiles
	DatastorePath(path string) string
}

// Users says which containers have a volume, by their IDs: those that run and those that do not.
type Users func(name string) []string

// Service is the volumes of one datastore. Its methods may be called by several goroutines. Errors have the class (package errdefs) and
// the words that Docker's clients expect.
type Service struct {
	host   Host
	index  *indexfile.File[index]
	log    *slog.Logger
	feed   *feed.Feed
	names  nameLocks
	mu     sync.Mutex
	held   map[string]int // by name: how many containers that have it are being made
	pruned chan struct{}  // has an element while a prune goes on
}

// New opens the volumes of a host's datastore, and tells events of them. When there are disks of volumes but no index it fails: a new one would not know what they are.
func New(ctx context.Context, host Host, events *feed.Feed, log *slog.Logger) (*Service, error) {
	s := &Service{host: host, log: log, feed: events, index: indexfile.New(host, format()), held: map[string]int{}, pruned: make(chan struct{}, 1)}
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("cannot open the volumes: %w", err)
	}
	return s, nil
}

func (s *Service) open(ctx context.Context) error {
	if err := s.host.MakeDirectory(ctx, Dir); err != nil {
		return err
	}
	err := s.index.Open(ctx)
	if err == nil || !errdefs.IsNotFound(err) {
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", indexPath, err)
		}
		return nil
	}
	files, err := s.host.ListFiles(ctx, Dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name, diskSuffix) {
			return fmt.Errorf("%s is missing, but there are volumes in %s: restore it, or remove them if nobody needs them", indexPath, Dir)
		}
	}
	return s.index.Create(ctx)
}

// Sweep ends what an earlier controller began: pending volumes that a container has are as others from now on, others are removed. It is
// called once, before anything else. What cannot be removed now stays pending, and is tried again at the next start.
func (s *Service) Sweep(ctx context.Context, users Users) {
	s.tellStrays(ctx)
	for name, e := range s.index.Read().Volumes {
		if !e.Pending {
			continue
		}
		err := s.settle(ctx, name, users)
		if err != nil {
			s.log.Error("what is left of a volume that was being made or removed is not cleared", "volume", name, "err", err)
		}
	}
}

// settle decides a pending volume: it stays if a container has it, and is removed else.
func (s *Service) settle(ctx context.Context, name string, users Users) error {
	unlock := s.names.lock(name)
	defer unlock()
	if len(users(name)) > 0 {
		return s.setPending(ctx, false, name)
	}
	s.log.Info("removing a volume that was being made or removed", "volume", name)
	return s.drop(ctx, name)
}

// tellStrays logs disks that the index does not name. They stay: who lost an index finds them there.
func (s *Service) tellStrays(ctx context.Context) {
	files, err := s.host.ListFiles(ctx, Dir)
	if err != nil {
		s.log.Warn("cannot list the disks of volumes", "err", err)
		return
	}
	known := map[string]bool{}
	for _, e := range s.index.Read().Volumes {
		known[e.ID+diskSuffix] = true
	}
	for _, f := range files {
		if id, ok := strings.CutSuffix(f.Name, diskSuffix); ok && validID.MatchString(id) && !known[f.Name] {
			s.log.Warn("the disk of no volume is left alone", "file", Dir+"/"+f.Name)
		}
	}
}

// List returns all volumes, ordered by name.
func (s *Service) List() []Volume {
	x := s.index.Read()
	var all []Volume
	for _, name := range slices.Sorted(maps.Keys(x.Volumes)) {
		if e := x.Volumes[name]; !e.Pending {
			all = append(all, volumeOf(name, e, s.host.DatastorePath))
		}
	}
	return all
}

// Get returns the volume with a name.
func (s *Service) Get(name string) (Volume, error) {
	e, ok := s.index.Read().Volumes[name]
	if !ok || e.Pending {
		return Volume{}, NoSuch("get", name)
	}
	return volumeOf(name, e, s.host.DatastorePath), nil
}

// NoSuch is the error of an operation on a volume that does not exist.
func NoSuch(operation, name string) error {
	return errdefs.ErrNotFound.WithMessage(operation + " " + name + ": no such volume")
}

// InUse is the error of a removal of a volume that containers have.
func InUse(name string, users []string) error {
	if len(users) == 0 {
		return errdefs.ErrConflict.WithMessage("remove " + name + ": volume is in use")
	}
	return errdefs.ErrConflict.WithMessage("remove " + name + ": volume is in use - [" + strings.Join(users, ", ") + "]")
}

// DiskUse is how many bytes of the datastore a volume's disk takes; -1: it has none, or it cannot be said.
func (s *Service) DiskUse(ctx context.Context, v Volume) int64 {
	if v.Disk == "" {
		return -1
	}
	info, err := s.host.Stat(ctx, v.Disk)
	if err != nil {
		return -1
	}
	return info.Size
}

// setPending changes whether volumes are pending; those that do not exist are left out.
func (s *Service) setPending(ctx context.Context, pending bool, names ...string) error {
	return s.index.Commit(ctx, func(x *index) error {
		for _, name := range names {
			if e, ok := x.Volumes[name]; ok {
				e.Pending = pending
				x.Volumes[name] = e
			}
		}
		return nil
	})
}

// nameLocks are locks by the name of a volume.
type nameLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits until nobody has the lock of a name. Those who have one wait for the host only, which is bounded.
func (l *nameLocks) lock(name string) (unlock func()) {
	for {
		l.mu.Lock()
		busy, taken := l.held[name]
		if !taken {
			if l.held == nil {
				l.held = map[string]chan struct{}{}
			}
			free := make(chan struct{})
			l.held[name] = free
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.held, name)
				close(free)
			}
		}
		l.mu.Unlock()
		<-busy
	}
}
