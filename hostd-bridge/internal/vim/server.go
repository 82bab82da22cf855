package vim

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/containervm/containervm/hostd-bridge/internal/datastore"
	"github.com/containervm/containervm/hostd-bridge/internal/vm/vmhost"
)

// Config is what a Server works with. Every field is needed.
type Config struct {
	Inventory *vmhost.Host
	Store     *datastore.Store
	HostName  string
	// InstanceUUID identifies this host's API over restarts (AboutInfo.instanceUuid).
	InstanceUUID       string
	Version            string // of this program, shown as build
	Username, Password string
	// NoDiskAtFork refuses a disk in InstantClone_Task, as a vCenter does.
	NoDiskAtFork bool
	Log          *slog.Logger
}

// Server serves vim25.
type Server struct {
	Config
	sessions  *sessions
	strangers *strangers
	tasks     *tasks
	objects   *objects
	methods   map[string]method
}

// New returns a server. Tasks run until ctx ends.
func New(ctx context.Context, c Config) *Server {
	s := &Server{Config: c, sessions: newSessions(c.Username, c.Password), strangers: &strangers{}, methods: allowList()}
	s.tasks = newTasks(ctx, c.Inventory.Signal(), c.Log)
	s.objects = newObjects(s)
	return s
}

// Wait returns when every task has ended.
func (s *Server) Wait() { s.tasks.running.Wait() }

// Register serves the API on a mux.
func (s *Server) Register(mux *http.ServeMux) {
	mux.HandleFunc("POST /sdk", s.serveSDK)
	mux.HandleFunc("POST /sdk/", s.serveSDK)
	mux.HandleFunc("GET /sdk/vimServiceVersions.xml", s.serveVersions)
}

// Authorize lets only requests with a session through to next; others are answered 401.
func (s *Server) Authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x, leave := s.enter(r)
		defer leave()
		if x == nil {
			http.Error(w, "log in first: this needs the cookie "+CookieName, http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// call is one call of a method.
type call struct {
	ctx     context.Context
	server  *Server
	session *session // nil before the login
	request *http.Request
	writer  http.ResponseWriter
	name    string
}

// method is an entry of the allow-list.
type method struct {
	newRequest func() any
	serve      func(c *call, req any) (any, error)
	open       bool // may be called before the login
}

// serve makes a method of a function; its name is that of the request's type.
func serve[Req, Res any](f func(*call, *Req) (*Res, error)) method {
	return method{
		newRequest: func() any { return new(Req) },
		serve: func(c *call, req any) (any, error) {
			res, err := f(c, req.(*Req))
			if err != nil {
				return nil, err
			}
			return res, nil
		},
	}
}

func beforeLogin(m method) method {
	m.open = true
	return m
}

// enter finds the session of a request and marks it as busy until leave is called; nil when there is none.
func (s *Server) enter(r *http.Request) (x *session, leave func()) {
	x, leave = s.sessions.enter(r)
	if x != nil {
		s.strangers.known(r)
	}
	return x, leave
}

func (s *Server) serveSDK(w http.ResponseWriter, r *http.Request) {
	x, leave := s.enter(r)
	defer leave()
	data, err := readRequest(w, r, x)
	if err != nil {
		http.Error(w, "cannot read the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	c := &call{ctx: r.Context(), server: s, session: x, request: r, writer: w}
	answer, err := c.dispatch(data)
	s.answer(c, answer, err)
}

// readRequest reads a request's body. Without a session it is short, and comes soon.
func readRequest(w http.ResponseWriter, r *http.Request, x *session) ([]byte, error) {
	most := int64(maxRequest)
	if x == nil {
		most = strangerRequest
		control := http.NewResponseController(w)
		if control.SetReadDeadline(time.Now().Add(strangerWait)) == nil { // a test's recorder has none
			defer func() { _ = control.SetReadDeadline(time.Time{}) }()
		}
	}
	return io.ReadAll(http.MaxBytesReader(w, r.Body, most))
}

// dispatch decodes and serves a request. Before the login nothing is decoded but the requests of a few methods.
func (c *call) dispatch(data []byte) (any, error) {
	name, req, err := decodeRequest(data, func(name string) any {
		if m, ok := c.server.methods[name]; ok && (m.open || c.session != nil) {
			return m.newRequest()
		}
		return nil
	})
	c.name = name
	m, served := c.server.methods[name]
	switch {
	case c.session == nil && !(served && m.open):
		return nil, fault(&types.NotAuthenticated{NoPermission: types.NoPermission{PrivilegeId: "System.View"}}, "The session is not authenticated.")
	case errors.Is(err, errMethod):
		return nil, fault(&types.NotSupported{}, "The method %s is not supported by this host.", name)
	case err != nil:
		return nil, fault(&types.InvalidRequest{}, "%v", err)
	}
	return m.serve(c, req)
}

// answer writes an answer, or the fault of an error.
func (s *Server) answer(c *call, answer any, err error) {
	b, status := body{answer: answer}, http.StatusOK
	if err != nil {
		status = http.StatusInternalServerError // SOAP 1.1, section 6.2
		f := faultOf(err)
		b.fault = &soapFault{Code: "ServerFaultCode", String: err.Error(), Detail: faultDetail{f}}
		s.Log.Debug("call refused", "method", c.name, "err", err)
	}
	data, err := encode(b)
	if err != nil {
		s.Log.Error("cannot answer", "method", c.name, "err", err)
		http.Error(c.writer, err.Error(), http.StatusInternalServerError)
		return
	}
	c.writer.Header().Set("Content-Type", "text/xml; charset=utf-8")
	c.writer.WriteHeader(status)
	_, _ = c.writer.Write(data) // an error means that the client is gone
}

func (s *Server) serveVersions(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	_, _ = io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?>
<namespaces version="1.0"><namespace><name>urn:vim25</name><version>`+apiVersion+`</version></namespace></namespaces>
`)
}
