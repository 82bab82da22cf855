package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/logconf"
	"github.com/containervm/containervm/controller/internal/vsphere"
	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostapitest"
	"github.com/containervm/containervm/hostd-bridge/hostapi/hostclient"
	"github.com/containervm/containervm/tether/link"
)

// unsteady is a host of one VM whose daemon goes away.
type unsteady struct {
	Host
	*hostapitest.VM
	client *hostclient.Client
	server *httptest.Server
	down   atomic.Bool
	gone   atomic.Bool // the VM was removed
}

func newUnsteady(t *testing.T) *unsteady {
	host := hostapitest.New()
	u := &unsteady{VM: host.VM("vm-1")}
	u.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u.down.Load() {
			panic(http.ErrAbortHandler)
		}
		if u.gone.Load() { // as hostapitest's, of a VM that there is not
			hostapitest.New().Handler().ServeHTTP(w, r)
			return
		}
		host.Handler().ServeHTTP(w, r)
	}))
	at, err := url.Parse(u.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.client = hostclient.New(at, http.DefaultClient.Do)
	t.Cleanup(func() {
		u.cut()
		u.server.Close()
	})
	return u
}

func (u *unsteady) OpenLog(ctx context.Context, vm vsphere.Ref, from int64, follow, wait bool) (*hostclient.Log, error) {
	return u.client.OpenLog(ctx, vm.Value, from, follow, wait)
}

// cut breaks all answers off, and answers no more until up.
func (u *unsteady) cut() {
	u.down.Store(true)
	u.server.CloseClientConnections()
}

func (u *unsteady) up() { u.down.Store(false) }

// followed is a reader of a log whose text comes by a channel.
type followed struct {
	t    *testing.T
	text chan string // closed at the end
	end  error       // from then on
}

func (u *unsteady) follow(t *testing.T, edit func(*ctr.Container), from int64, wait bool) *followed {
	t.Helper()
	c := ctr.Container{ID: "c", VM: vsphere.VM{Ref: vsphere.Ref{Value: "vm-1"}}}
	if edit != nil {
		edit(&c)
	}
	f, err := New(u, nil, ctr.Timeouts{}).open(t.Context(), &c, from, true, wait)
	if err != nil {
		t.Fatal(err)
	}
	r := &followed{t: t, text: make(chan string, 1000)}
	go func() {
		defer f.Close()
		defer close(r.text)
		for {
			rec, err := f.Next(t.Context())
			if err != nil {
				r.end = err
				return
			}
			if rec.Stream != link.StreamRun {
				r.text <- string(rec.Payload)
			}
		}
	}()
	return r
}

// next is what is read next; false: nothing.
func (f *followed) next() (text string, more bool) {
	f.t.Helper()
	select {
	case text, more = <-f.text:
	case <-time.After(time.Minute):
		f.t.Fatal("nothing comes, and no end")
	}
	return text, more
}

func (f *followed) reads(want string) {
	f.t.Helper()
	if got, more := f.next(); got != want {
		f.t.Fatalf("%q is read (there is more: %v), not %q", got, more, want)
	}
}

func (f *followed) ends(want error) {
	f.t.Helper()
	if got, more := f.next(); more || !errors.Is(f.end, want) {
		f.t.Fatalf("in the place of the end, which is %v, there is %q (there is more: %v)", want, got, more)
	}
}

// TestLogGoesOn: a log that is followed goes on with the next record when the host's daemon was away, and ends with its run, whatever happened
// to that meanwhile.
func TestLogGoesOn(t *testing.T) {
	for name, test := range map[string]func(t *testing.T, u *unsteady){
		"the run lasts": func(t *testing.T, u *unsteady) {
			u.PowerOn()
			u.Log(link.StreamStdout, "one")
			f := u.follow(t, nil, 0, false)
			f.reads("one")
			for _, text := range []string{"two", "three"} {
				u.cut()
				u.Log(link.StreamStdout, text)
				u.up()
				f.reads(text)
			}
			u.PowerOff()
			f.ends(io.EOF)
		},
		"it has ended": func(t *testing.T, u *unsteady) {
			u.PowerOn()
			f := u.follow(t, nil, hostclient.End, true)
			u.Log(link.StreamStdout, "one")
			f.reads("one")
			u.cut()
			u.Log(link.StreamStdout, "two")
			u.PowerOff()
			u.up()
			f.reads("two")
			f.ends(io.EOF)
		},
		"another one lasts": func(t *testing.T, u *unsteady) {
			u.PowerOn()
			f := u.follow(t, nil, hostclient.End, true)
			u.Log(link.StreamStdout, "one")
			f.reads("one")
			u.cut()
			u.Log(link.StreamStderr, "two")
			u.PowerOff()
			u.PowerOn()
			u.Log(link.StreamStdout, "of another run")
			u.up()
			f.reads("two")
			f.ends(io.EOF)
		},
		"it is still to begin": func(t *testing.T, u *unsteady) {
			f := u.follow(t, nil, hostclient.End, true)
			u.cut()
			u.up()
			u.PowerOn()
			u.Log(link.StreamStdout, "one")
			f.reads("one")
			u.PowerOff()
			f.ends(io.EOF)
		},
		"it has begun": func(t *testing.T, u *unsteady) {
			f := u.follow(t, nil, hostclient.End, true)
			u.cut()
			u.PowerOn()
			u.Log(link.StreamStdout, "one")
			u.up()
			f.reads("one")
			u.cut()
			u.up()
			u.PowerOff()
			f.ends(io.EOF)
		},
		"it has begun and ended": func(t *testing.T, u *unsteady) {
			u.PowerOn()
			u.PowerOff()
			f := u.follow(t, func(c *ctr.Container) { c.Run = 1 }, 0, true)
			u.cut()
			u.PowerOn()
			u.Log(link.StreamStdout, "one")
			u.PowerOff()
			u.PowerOn()
			u.Log(link.StreamStdout, "of another run")
			u.up()
			f.reads("one")
			f.ends(io.EOF)
		},
		"a log that is not stored": func(t *testing.T, u *unsteady) {
			u.PowerOn()
			f := u.follow(t, func(c *ctr.Container) {
				c.HostConfig.LogConfig = container.LogConfig{Type: logconf.None}
			}, hostclient.End, true)
			u.Log(link.StreamStdout, "one")
			f.reads("one")
			u.cut()
			u.Log(link.StreamStdout, "two")
			u.up()
			f.reads("two")
			u.cut()
			u.PowerOff()
			u.up()
			f.ends(errLost)
		},
	} {
		t.Run(name, func(t *testing.T) { test(t, newUnsteady(t)) })
	}
}

// TestForkedLogGoesOn: a fork's log begins with its source's, whose runs have numbers of their own.
func TestForkedLogGoesOn(t *testing.T) {
	of := func(run hostapi.Run, fork *hostapi.ForkMarker) []byte {
		return link.AppendRecord(nil, link.Record{Stream: link.StreamRun, Payload: []byte(hostapi.Marker{Run: run, Fork: fork}.String())})
	}
	said := func(text string) []byte {
		return link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: []byte(text)})
	}
	data := []byte(strings.Join([]string{
		string(of(1, nil)), string(said("a")), string(of(2, nil)), string(said("b")),
		string(of(1, &hostapi.ForkMarker{Generation: 1})), string(said("c")), string(of(2, nil)), string(said("d")),
	}, ""))
	host := &logHost{data: data}
	f := &follower{host: host, run: 1}
	if err := f.runEnded(t.Context()); err != nil || !f.over || f.end != int64(len(data)-len(of(2, nil))-len(said("d"))) {
		t.Errorf("the run ends at %d of %d, %v", f.end, len(data), err)
	}
}

// TestLogLosesNothing: a host that goes away again and again costs a reader no record, and gives none twice.
func TestLogLosesNothing(t *testing.T) {
	u := newUnsteady(t)
	u.PowerOn()
	f := u.follow(t, nil, 0, true)
	const records = 3000
	go func() {
		for n := range records {
			if rand.IntN(100) == 0 {
				u.cut()
				u.up()
			}
			u.Log(link.StreamStdout, fmt.Sprint(n))
		}
		u.PowerOff()
	}()
	for n := range records {
		f.reads(fmt.Sprint(n))
	}
	f.ends(io.EOF)
}

// TestLogIsGone: the container is removed while the host is away.
func TestLogIsGone(t *testing.T) {
	u := newUnsteady(t)
	u.PowerOn()
	f := u.follow(t, nil, 0, true)
	u.gone.Store(true)
	u.cut()
	u.up()
	f.ends(io.EOF)
}
