package image

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"path"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// guard is the way to a registry for one pull or push. It bounds what the registry's answers cost, and where they lead.
type guard struct {
	host string // of the registry, with its port
	home http.RoundTripper
	away http.RoundTripper // to hosts that the registry names: servers of tokens, stores of layers
	// at is the registry's own address, once it was connected to.
	at       atomic.Value // netip.Addr
	metadata *allowance   // bytes of answers that are no layers
	requests atomic.Int64 // that are no layer's, and may still be made
	stall    time.Duration
}

func newGuard(host string) *guard {
	g := &guard{
		host: host, stall: stallTime,
		metadata: newAllowance(MaxArchiveMetadata, fmt.Sprintf("the registry answers with more than %d bytes that are no layers", MaxArchiveMetadata)),
	}
	g.requests.Store(maxPullRequests)
	home, ok := remote.DefaultTransport.(*http.Transport)
	if !ok {
		home = &http.Transport{Proxy: http.ProxyFromEnvironment}
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second, Control: g.control} // as go-containerregistry's
	away := home.Clone()
	away.DialContext, away.DisableKeepAlives = dialer.DialContext, true // connections of its own: those of others were not looked at
	g.home, g.away = home, away
	return g
}

// RoundTrip sends a request, to the registry or where it leads.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	layer := asksForBlob(req)
	if !layer && req.Method != http.MethodPatch && req.Method != http.MethodPut && g.requests.Add(-1) < 0 {
		return nil, invalid("the registry has this machine ask more than %d times", maxPullRequests)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watched{cancel: cancel, ctx: ctx, every: g.stall}
	if req.Body == nil || req.Body == http.NoBody { // an upload takes its time
		w.timer = time.AfterFunc(g.stall, w.stalled)
	}
	next := g.away
	if req.URL.Host == g.host {
		next = g.home
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: g.connected})
	} else if proxy, err := http.ProxyFromEnvironment(req); err == nil && proxy != nil {
		next = g.home // the proxy decides
	}
	res, err := next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, w.end(err)
	}
	w.ReadCloser = res.Body
	if !layer || res.StatusCode >= http.StatusMultipleChoices {
		w.spend = g.metadata
	}
	res.Body = w
	return res, nil
}

// asksForBlob reports whether a request, or the first one of the redirects that led to it, is for a blob: what reads it knows its size.
func asksForBlob(req *http.Request) bool {
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	return req.Method == http.MethodGet && path.Base(path.Dir(req.URL.Path)) == "blobs"
}

func (g *guard) connected(i httptrace.GotConnInfo) {
	if at, err := netip.ParseAddrPort(i.Conn.RemoteAddr().String()); err == nil {
		g.at.Store(at.Addr().Unmap())
	}
}

// control refuses connections to where a registry must not lead: net.Dialer, after a name was looked up.
func (g *guard) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("cannot connect to %s: %w", address, err)
	}
	home, _ := g.at.Load().(netip.Addr)
	if !mayLeadTo(home, at.Addr()) {
		return invalid("the registry %s leads to the private address %s", g.host, at.Addr())
	}
	return nil
}

// mayLeadTo reports whether a registry at home may have this machine connect to an address: one that is itself in a private network to others
// there, one on this machine to others on it, and none to what is the host's alone.
func mayLeadTo(home, to netip.Addr) bool {
	to = to.Unmap()
	switch {
	case to.IsLoopback() || to.IsUnspecified():
		return home.IsLoopback()
	case to.IsLinkLocalUnicast() || to.IsMulticast():
		return false
	case to.IsPrivate():
		return home.IsPrivate() || home.IsLoopback()
	}
	return true
}

// watched is the body of an answer. It ends when too little of it comes, or when it spends more than it may.
type watched struct {
	io.ReadCloser
	spend  *allowance // nil: a layer, whose size is known
	ctx    context.Context
	cancel context.CancelCauseFunc

	every time.Duration

	mu    sync.Mutex
	timer *time.Timer // nil: it may take its time
	since int         // bytes since the timer was set
}

func (w *watched) stalled() {
	w.cancel(errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("the registry has sent less than %d bytes in %v", stallBytes, w.every)))
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if w.spend != nil && w.spend.left.Add(-int64(n)) < 0 {
		return 0, invalid("%s", w.spend.of)
	}
	if err != nil && err != io.EOF {
		return n, w.end(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since += n; w.since >= stallBytes && w.timer != nil {
		w.since = 0
		w.timer.Reset(w.every)
	}
	return n, err
}

// end is what an error means: that the time was over, if it was.
func (w *watched) end(err error) error {
	if cause := context.Cause(w.ctx); cause != nil && errdefs.IsUnavailable(cause) {
		err = cause
	}
	w.free()
	return err
}

func (w *watched) free() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	w.cancel(nil)
}

// Close ends the watch, too.
func (w *watched) Close() error {
	defer w.free()
	return w.ReadCloser.Close()
}
