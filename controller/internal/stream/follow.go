package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/logconf"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostclient"
	"github.com/containervm/containervm/tether/link"
)

const (
	// resumeFirst and resumeMost bound the pause before a host that went away is asked again for the rest of a log.
	resumeFirst = 20 * time.Millisecond
	resumeMost  = 500 * time.Millisecond
	// resumeWithin is for how long it is asked, from when the log broke off: a daemon that is exchanged is back in seconds, the restart of a
	// machine ends its containers.
	resumeWithin = 2 * time.Minute
	// resumeSettled is how long an answer must have lasted for the next one that breaks off to be another fault.
	resumeSettled = 10 * time.Second
)

// follower reads records of a log. Where the host breaks it off, as a daemon that is killed or stopped does, it goes on with the record that
// comes next, also when the machine has ended meanwhile. It reads to the end that the log has, or, when it follows, to the end of one run.
type follower struct {
	host         Host
	vm           vsphere.Ref
	c            *container.Container
	follow, wait bool // as OpenLog
	unstored     bool // the log is in its machine's memory alone

	log     io.ReadCloser
	records *link.RecordReader
	at      int64       // offset of the next record
	run     hostapi.Run // that is followed; 0: none has begun
	last    hostapi.Run // when nothing was read yet
	over    bool        // the run is known to have ended, with the record before end
	end     int64
	opened  time.Time // the present answer
	giveUp  time.Time // zero: the answer is whole so far
}

// open opens a container's log from an offset, or from its end (hostclient.End), as OpenLog.
func (s *Service) open(ctx context.Context, c *container.Container, from int64, follow, wait bool) (*follower, error) {
	log, err := s.host.OpenLog(ctx, c.VM.Ref, from, follow, wait)
	if err != nil {
		return nil, err
	}
	f := &follower{
		host: s.host, vm: c.VM.Ref, c: c, follow: follow, wait: wait,
		unstored: c.HostConfig.LogConfig.Type == logconf.None, at: log.Offset, run: log.Run, last: c.Run, end: math.MaxInt64,
	}
	if f.run == 0 && !wait {
		f.run = c.Run // it has ended since
	}
	f.use(log)
	return f, nil
}

func (f *follower) use(log *hostclient.Log) {
	f.log, f.records, f.opened = log, link.NewRecordReader(log), time.Now()
}

// Close ends the reading.
func (f *follower) Close() error { return f.log.Close() }

// Next returns the next record, which is valid until the next call; io.EOF at the end of what is read.
func (f *follower) Next(ctx context.Context) (link.Record, error) {
	for f.at < f.end {
		rec, err := f.records.Next()
		if err == nil {
			f.at += rec.Length()
			f.take(rec)
			return rec, nil
		}
		if err == io.EOF || ctx.Err() != nil {
			return rec, err
		}
		if err := f.resume(ctx, err); err != nil {
			return rec, err
		}
	}
	return link.Record{}, io.EOF
}

// take learns from a record which run is followed, when it was to be the next one.
func (f *follower) take(rec link.Record) {
	f.giveUp = time.Time{}
	if m, ok := beginsRun(rec); ok && m.Run > f.last && (f.run == 0 || f.wait && !f.over) {
		f.run = m.Run
	}
}

// beginsRun reports whether a record is the marker with which a run begins.
func beginsRun(rec link.Record) (hostapi.Marker, bool) {
	if rec.Stream != link.StreamRun {
		return hostapi.Marker{}, false
	}
	m, err := hostapi.ParseMarker(string(rec.Payload))
	return m, err == nil && !m.Continued
}

// resume asks for the rest until there is an answer. io.EOF: there is no rest.
func (f *follower) resume(ctx context.Context, cause error) error {
	f.log.Close()
	if f.giveUp.IsZero() || time.Since(f.opened) > resumeSettled {
		f.giveUp = time.Now().Add(resumeWithin)
	}
	for pause := resumeFirst; ; pause = min(2*pause, resumeMost) {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		err := f.reopen(ctx)
		switch {
		case err == nil:
			return nil
		case errdefs.IsNotFound(err): // removed, and its log with it
			return io.EOF
		case errors.Is(err, errLost), errors.Is(err, vsphere.ErrClosed):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(f.giveUp):
			return fmt.Errorf("the log of %s broke off, and its host gives no more of it: %w", f.c, errors.Join(cause, err))
		}
	}
}

// errLost says that output is gone.
var errLost = errors.New("the end of the output is lost: it was not stored, and the container ended while the host's daemon was away")

// reopen asks once for what follows at, of the run that is followed, which may be over.
func (f *follower) reopen(ctx context.Context) error {
	log, err := f.host.OpenLog(ctx, f.vm, f.at, f.follow && !f.over, f.wait && !f.over)
	if err != nil {
		return err
	}
	if f.follow && !f.over {
		err := f.place(ctx, log)
		if err != nil || f.over {
			log.Close()
		}
		switch {
		case err != nil:
			return err
		case f.over:
			return f.reopen(ctx)
		}
	}
	f.use(log)
	return nil
}

// place finds out how the run that is followed stands, as an answer has it.
func (f *follower) place(ctx context.Context, log *hostclient.Log) (err error) {
	if f.run == 0 && log.Over > f.last {
		if f.run, err = f.begun(ctx); err != nil {
			return err
		}
	}
	if f.run == 0 {
		f.run = log.Run
	}
	if f.run == 0 || f.run > log.Over {
		return nil
	}
	return f.runEnded(ctx)
}

// begun finds the run that has begun at the present offset; 0: none.
func (f *follower) begun(ctx context.Context) (run hostapi.Run, err error) {
	if f.unstored {
		return 0, errLost
	}
	err = f.scan(ctx, func(_ int64, rec link.Record) {
		if m, ok := beginsRun(rec); ok && run == 0 && m.Run > f.last {
			run = m.Run
		}
	})
	return run, err
}

// runEnded finds where the run ends that is over. A fork's log begins with its source's, in which the same numbers are those of other
// runs: the last marker with the number is the run's.
func (f *follower) runEnded(ctx context.Context) error {
	if f.unstored {
		return errLost
	}
	end := int64(math.MaxInt64)
	err := f.scan(ctx, func(at int64, rec link.Record) {
		if rec.Stream != link.StreamRun {
			return
		}
		switch m, err := hostapi.ParseMarker(string(rec.Payload)); {
		case err == nil && m.Run == f.run:
			end = math.MaxInt64
		case end == math.MaxInt64:
			end = at
		}
	})
	if err == nil {
		f.over, f.end = true, end
	}
	return err
}

// scan calls each for all records from the present offset on that there are now.
func (f *follower) scan(ctx context.Context, each func(at int64, rec link.Record)) error {
	log, err := f.host.OpenLog(ctx, f.vm, f.at, false, false)
	if err != nil {
		return err
	}
	defer log.Close()
	records := link.NewRecordReader(log)
	for at := f.at; ; {
		rec, err := records.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		each(at, rec)
		at += rec.Length()
	}
}
