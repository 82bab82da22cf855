package vim

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// CookieName is the name of the cookie that holds a session's key, as vCenter's.
const CookieName = "vmware_soap_session"

const (
	// idleTimeout ends a session that made no call for this long: vCenter's default.
	idleTimeout = 30 * time.Minute
	// maxSessions bounds the sessions; beyond it the one that was idle longest ends.
	maxSessions = 1000
	// failedLoginDelay is how long a wrong password is not answered.
	failedLoginDelay = time.Second
	// maxFailingLogins bounds the wrong passwords in that delay; beyond it they are refused unseen.
	maxFailingLogins = 16
)

// session is a logged-in client and the objects that belong to it.
type session struct {
	info types.UserSession // LastActiveTime and CallCount are kept apart

	mu         sync.Mutex
	active     time.Time
	calls      int64
	waits      int // calls in flight: such a session is not idle
	collectors map[string]*collector
	filters    map[string]*filter
	views      map[string]*view
	pages      map[string]pages
}

// sessions is the table of sessions.
type sessions struct {
	user    string
	pass    [sha256.Size]byte
	failing chan struct{}

	mu   sync.Mutex
	byID map[string]*session
}

func newSessions(user, password string) *sessions {
	return &sessions{
		user: user, pass: sha256.Sum256([]byte(password)),
		failing: make(chan struct{}, maxFailingLogins), byID: map[string]*session{},
	}
}

// login makes a session if the password is right. Comparing hashes takes as long for any password.
func (s *sessions) login(ctx context.Context, r *http.Request, user, password string) (*session, error) {
	sum := sha256.Sum256([]byte(password))
	right := subtle.ConstantTimeCompare(sum[:], s.pass[:]) & subtle.ConstantTimeCompare([]byte(user), []byte(s.user))
	if right != 1 {
		return nil, s.refuse(ctx)
	}
	now := time.Now().UTC()
	new := &session{
		info: types.UserSession{
			Key: rand.Text(), UserName: user, FullName: user, LoginTime: now,
			Locale: "en", MessageLocale: "en", IpAddress: r.RemoteAddr, UserAgent: r.UserAgent(),
		},
		active:  now,
		filters: map[string]*filter{}, views: map[string]*view{}, pages: map[string]pages{},
		collectors: map[string]*collector{collectorRef.Value: newCollector(collectorRef)},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	s.byID[new.info.Key] = new
	return new, nil
}

// refuse answers a wrong password, late, so that guessing is slow.
func (s *sessions) refuse(ctx context.Context) error {
	wrong := fault(&types.InvalidLogin{}, "Cannot complete login due to an incorrect user name or password.")
	select {
	case s.failing <- struct{}{}:
		defer func() { <-s.failing }()
	default:
		return wrong
	}
	select {
	case <-time.After(failedLoginDelay):
	case <-ctx.Done():
	}
	return wrong
}

// expire removes idle sessions and, where there are too many, the longest idle one; the caller holds mu.
func (s *sessions) expire(now time.Time) {
	maps.DeleteFunc(s.byID, func(_ string, x *session) bool { return x.idle(now) > idleTimeout })
	if len(s.byID) < maxSessions {
		return
	}
	var oldest *session
	for _, x := range s.byID {
		if oldest == nil || x.idle(now) > oldest.idle(now) {
			oldest = x
		}
	}
	delete(s.byID, oldest.info.Key)
}

// idle returns for how long the session has made no call.
func (x *session) idle(now time.Time) time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.waits > 0 {
		return 0
	}
	return now.Sub(x.active)
}

// enter finds the session of a request and marks it as busy until leave is called; nil when there is none.
func (s *sessions) enter(r *http.Request) (x *session, leave func()) {
	cookie, err := r.Cookie(CookieName)
	if err != nil {
		return nil, func() {}
	}
	s.mu.Lock()
	x = s.byID[cookie.Value]
	s.mu.Unlock()
	if x == nil {
		return nil, func() {}
	}
	if x.idle(time.Now()) > idleTimeout {
		s.logout(x)
		return nil, func() {}
	}
	x.count(1)
	return x, func() { x.count(-1) }
}

func (x *session) count(by int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.waits += by
	x.active = time.Now().UTC()
	if by > 0 {
		x.calls++
	}
}

// alive says whether the session has not ended.
func (s *sessions) alive(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[key] != nil
}

// logout ends a session and the waits in it.
func (s *sessions) logout(x *session) {
	s.mu.Lock()
	delete(s.byID, x.info.Key)
	s.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.collectors {
		c.cancelWait()
	}
}

// user returns the session as clients see it.
func (x *session) user() types.UserSession {
	x.mu.Lock()
	defer x.mu.Unlock()
	u := x.info
	u.LastActiveTime, u.CallCount = x.active, x.calls
	return u
}

// manager is the SessionManager as the session sees it.
func (x *session) manager() *mo.SessionManager {
	u := x.user()
	return &mo.SessionManager{
		Self: sessionManagerRef, SessionList: []types.UserSession{u}, CurrentSession: &u,
		SupportedLocaleList: []string{"en"}, DefaultLocale: "en", MessageLocaleList: []string{"en"},
	}
}

// newRef names an object that belongs to the session.
func (x *session) newRef(kind string) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: kind, Value: fmt.Sprintf("session[%s]%s", x.info.Key[:8], rand.Text())}
}

func login(c *call, req *types.Login) (*types.LoginResponse, error) {
	x, err := c.server.sessions.login(c.ctx, c.request, req.UserName, req.Password)
	if err != nil {
		return nil, err
	}
	http.SetCookie(c.writer, &http.Cookie{
		Name: CookieName, Value: x.info.Key, Path: "/", HttpOnly: true, Secure: c.request.TLS != nil,
	})
	return &types.LoginResponse{Returnval: x.user()}, nil
}

func logout(c *call, _ *types.Logout) (*types.LogoutResponse, error) {
	c.server.sessions.logout(c.session)
	return &types.LogoutResponse{}, nil
}

func sessionIsActive(c *call, req *types.SessionIsActive) (*types.SessionIsActiveResponse, error) {
	active := c.server.sessions.alive(req.SessionID)
	return &types.SessionIsActiveResponse{Returnval: active}, nil
}
