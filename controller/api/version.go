package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Versions of the Docker Engine API that are served.
const (
	// MaxVersion is the version of github.com/moby/moby/api v1.56.1, whose types are used.
	MaxVersion = "1.56"
	// MinVersion is the oldest one that moby's own daemon can be told to serve.
	MinVersion = "1.24"
)

type versionKey struct{}

// Version is the API version that a request asked for; MaxVersion when it named none.
func Version(ctx context.Context) string {
	if v, ok := ctx.Value(versionKey{}).(string); ok {
		return v
	}
	return MaxVersion
}

// versioned strips the version prefix from paths, refuses versions out of range and sets the headers of every answer.
func versioned(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Api-Version", MaxVersion)
		h.Set("Docker-Experimental", "false")
		h.Set("Ostype", "linux")
		h.Set("Server", "containerVM ("+runtime.GOOS+")")
		version, path, ok := cutVersion(r.URL.Path)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		if err := checkVersion(version); err != nil {
			log.Debug("refused an API version", "version", version, "path", r.URL.Path)
			writeError(w, http.StatusBadRequest, err.Error())
			return
		}
		r = r.WithContext(context.WithValue(r.Context(), versionKey{}, version))
		r2 := *r
		u := *r.URL
		u.Path, u.RawPath = path, ""
		r2.URL = &u
		next.ServeHTTP(w, &r2)
	})
}

// cutVersion splits "/v1.50/info" into "1.50" and "/info".
func cutVersion(path string) (version, rest string, ok bool) {
	tail, ok := strings.CutPrefix(path, "/v")
	if !ok {
		return "", path, false
	}
	version, rest, ok = strings.Cut(tail, "/")
	if !ok || strings.Trim(version, "0123456789.") != "" || version == "" {
		return "", path, false
	}
	return version, "/" + rest, true
}

func checkVersion(v string) error {
	n, ok := parseVersion(v)
	if !ok {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid API version %q: must be MAJOR.MINOR", v))
	}
	most, _ := parseVersion(MaxVersion)
	least, _ := parseVersion(MinVersion)
	if n.less(least) {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
			"client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", v, MinVersion))
	}
	if most.less(n) {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
			"client version %s is too new. Maximum supported API version is %s", v, MaxVersion))
	}
	return nil
}

// atLeast reports whether a request speaks version v or a newer one.
func atLeast(ctx context.Context, v string) bool {
	have, _ := parseVersion(Version(ctx))
	want, _ := parseVersion(v)
	return !have.less(want)
}

type apiVersion struct{ major, minor int }

func (v apiVersion) less(w apiVersion) bool {
	return v.major < w.major || v.major == w.major && v.minor < w.minor
}

func parseVersion(s string) (apiVersion, bool) {
	a, b, ok := strings.Cut(s, ".")
	major, err1 := strconv.ParseUint(a, 10, 16)
	minor, err2 := strconv.ParseUint(b, 10, 16)
	return apiVersion{int(major), int(minor)}, ok && err1 == nil && err2 == nil
}
