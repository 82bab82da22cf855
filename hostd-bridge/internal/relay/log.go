package relay

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"path"
	"strconv"
	"sync"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/vm"
	"github.com/containervm/containervm/tether/link"
)

// serveLog streams a VM's log from an offset. Its header is sent before the run that it waits for begins, so that the client
// knows from where on it misses nothing.
func (r *Relay) serveLog(w http.ResponseWriter, req *http.Request) error {
	ref := req.PathValue("moref")
	v, ok := r.inventory.Get(ref)
	if !ok {
		return &vm.NotFoundError{Ref: ref}
	}
	from, err := r.offset(v, req.FormValue(hostapi.ParamFrom))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set(hostapi.HeaderLogOffset, strconv.FormatInt(from, 10))
	w.Header().Set(hostapi.HeaderLogRun, present(v).String())
	w.WriteHeader(http.StatusOK)
	out := &flusher{w: w, c: http.NewResponseController(w)}
	if err := out.c.Flush(); err != nil {
		return nil // the client is gone
	}
	err = r.stream(req.Context(), out, v, from, isSet(req, hostapi.ParamFollow), isSet(req, hostapi.ParamWait))
	if err != nil && req.Context().Err() == nil {
		r.log.Warn("log stream broken off", "vm", v.Name, "err", err)
		panic(http.ErrAbortHandler) // the only way to tell the client that the stream is not whole
	}
	return nil
}

func isSet(req *http.Request, param string) bool { return req.FormValue(param) == hostapi.Yes }

// present returns the number of the run of a VM that is on, and 0 of one that is off.
func present(v *vm.VM) hostapi.Run {
	if v.Power != vm.PoweredOn {
		return 0
	}
	return v.Run
}

// over returns the number of the last run that is over, of a VM that is off: one whose start is in flight is not.
func over(v *vm.VM) hostapi.Run {
	if o := v.InFlight; o != nil && o.Kind == vm.OpStart {
		return v.Run - 1
	}
	return v.Run
}

// stream copies the log from an offset to its end.
func (r *Relay) stream(ctx context.Context, out io.Writer, v *vm.VM, from int64, follow, wait bool) error {
	log, err := r.open(ctx, v, from, follow, wait)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, log)
	return errors.Join(err, log.Close())
}

// open opens the log of the run that v is in, or with wait of the next one if v is off. What no machine serves is read from the
// file: the run of v may have ended since.
func (r *Relay) open(ctx context.Context, v *vm.VM, from int64, follow, wait bool) (io.ReadCloser, error) {
	m, err := r.inventory.Machine(v.Ref)
	if err != nil && wait && present(v) == 0 {
		if m, err = r.inventory.WaitRun(ctx, v.Ref, over(v)); err != nil {
			return nil, err
		}
	}
	if m != nil {
		log, err := m.Log(ctx, from, follow)
		if err == nil {
			return log, nil
		}
		if _, running := r.inventory.Machine(v.Ref); running == nil {
			return nil, err
		}
	}
	return r.openFile(v, from)
}

func (r *Relay) openFile(v *vm.VM, from int64) (io.ReadCloser, error) {
	f, err := r.store.Open(path.Join(v.Home, hostapi.LogFile))
	if errors.Is(err, fs.ErrNotExist) {
		return io.NopCloser(&io.LimitedReader{}), nil // nothing was ever written
	}
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// offset returns the offset that the value of ParamFrom stands for.
func (r *Relay) offset(v *vm.VM, from string) (int64, error) {
	switch from {
	case "":
		return 0, nil
	case hostapi.FromEnd:
		return r.end(v)
	}
	n, err := strconv.ParseInt(from, 10, 64)
	if err != nil || n < 0 {
		return 0, badRequest("from must be an offset in bytes, or end")
	}
	return n, nil
}

// end returns the end of a log: that of its last whole record, because a torn or damaged tail is cut off when the machine starts. It
// reads what came since it was asked last: a border between records stays one.
func (r *Relay) end(v *vm.VM) (int64, error) {
	f, err := r.store.Open(path.Join(v.Home, hostapi.LogFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	border := r.borders.get(v.Ref)
	if info, err := f.Stat(); err != nil || info.Size() < border {
		border = 0 // another file than it was
	}
	if _, err := f.Seek(border, io.SeekStart); err != nil {
		return 0, err
	}
	good, _ := link.ScanRecords(f) // what is wrong behind that is cut off by the next start
	r.borders.set(v.Ref, border+good, func(ref string) bool { _, ok := r.inventory.Get(ref); return ok })
	return border + good, nil
}

// borders are the ends of logs as they were found last.
type borders struct {
	mu    sync.Mutex
	byRef map[string]int64
	limit int // of entries, before those of VMs that are gone are forgotten
}

// minBorders is the number of entries up to which a VM that is gone costs nothing worth a search for it.
const minBorders = 64

func (b *borders) get(ref string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.byRef[ref]
}

func (b *borders) set(ref string, at int64, exists func(ref string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.byRef[ref] = at
	if len(b.byRef) > max(b.limit, minBorders) {
		maps.DeleteFunc(b.byRef, func(ref string, _ int64) bool { return !exists(ref) })
		b.limit = 2 * len(b.byRef)
	}
}

// flusher sends every write on at once.
type flusher struct {
	w io.Writer
	c *http.ResponseController
}

func (f *flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.c.Flush()
	}
	return n, err
}
