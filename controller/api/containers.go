package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/controller/internal/exec"
	"github.com/containervm/containervm/controller/internal/fields"
	"github.com/containervm/containervm/controller/internal/stream"
)

// containerAPI makes, lists and drives containers.
type containerAPI struct {
	containers *ctr.Service
	execs      *exec.Service
	streams    *stream.Service
	fields     fields.Table // of a create
}

func (a *containerAPI) routes(r *router) {
	a.fields = fields.Create()
	r.handle("GET /containers/json", a.list)
	r.handle("POST /containers/create", a.create)
	r.handle("POST /containers/prune", a.prune)
	r.handle("GET /containers/{id}/json", a.inspect)
	r.handle("GET /containers/{id}/top", a.top)
	r.handle("GET /containers/{id}/stats", a.stats)
	r.handle("POST /containers/{id}/pause", a.pause)
	r.handle("POST /containers/{id}/unpause", a.unpause)
	r.handle("POST /containers/{id}/start", a.start)
	r.handle("POST /containers/{id}/stop", a.stop)
	r.handle("POST /containers/{id}/restart", a.restart)
	r.handle("POST /containers/{id}/kill", a.kill)
	r.handle("POST /containers/{id}/wait", a.wait)
	r.handle("POST /containers/{id}/rename", a.rename)
	r.handle("POST /containers/{id}/update", a.update)
	r.handle("POST /containers/{id}/resize", a.resize)
	r.handle("DELETE /containers/{id}", a.remove)
}

func (a *containerAPI) start(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength > nullBody || r.ContentLength < 0 {
		return invalid("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	return noContent(w, a.containers.Start(r.Context(), r.PathValue("id")))
}

// nullBody is the most bytes of a body that says nothing ("null", with line ends): as Docker has it for old clients.
const nullBody = 7

// noContent answers 204 unless there is an error.
func noContent(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

func (a *containerAPI) stop(w http.ResponseWriter, r *http.Request) error {
	opt, err := stopOptions(r)
	if err != nil {
		return err
	}
	return noContent(w, a.containers.Stop(r.Context(), r.PathValue("id"), opt))
}

func (a *containerAPI) restart(w http.ResponseWriter, r *http.Request) error {
	opt, err := stopOptions(r)
	if err != nil {
		return err
	}
	return noContent(w, a.containers.Restart(r.Context(), r.PathValue("id"), opt))
}

func stopOptions(r *http.Request) (opt ctr.StopOptions, err error) {
	opt.Signal = param(r, "signal")
	if param(r, "t") != "" {
		seconds, err := intParam(r, "t", 0)
		if err != nil {
			return opt, err
		}
		opt.Seconds = &seconds
	}
	return opt, nil
}

func (a *containerAPI) kill(w http.ResponseWriter, r *http.Request) error {
	return noContent(w, a.containers.Kill(r.Context(), r.PathValue("id"), param(r, "signal")))
}

func (a *containerAPI) remove(w http.ResponseWriter, r *http.Request) error {
	return noContent(w, a.containers.Remove(r.Context(), r.PathValue("id"), ctr.RemoveOptions{Force: boolParam(r, "force"), Volumes: boolParam(r, "v")}))
}

// wait sends its header as soon as the wait has begun: `docker run` starts the container only then, so that it cannot
// miss the end.
func (a *containerAPI) wait(w http.ResponseWriter, r *http.Request) error {
	condition := container.WaitCondition(param(r, "condition"))
	wait, stop, err := a.containers.Wait(r.Context(), r.PathValue("id"), condition)
	if err != nil {
		return err
	}
	defer stop()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return err
	}
	code, err := wait()
	if err != nil {
		return err
	}
	return encodeJSON(w, container.WaitResponse{StatusCode: int64(code)})
}

func (a *containerAPI) rename(w http.ResponseWriter, r *http.Request) error {
	return noContent(w, a.containers.Rename(r.Context(), r.PathValue("id"), param(r, "name")))
}

func (a *containerAPI) update(w http.ResponseWriter, r *http.Request) error {
	var req container.UpdateConfig
	if _, err := readRequest(w, r, fields.Update(), &req); err != nil {
		return err
	}
	if err := a.containers.Update(r.Context(), r.PathValue("id"), req); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, container.UpdateResponse{Warnings: []string{}})
}

func (a *containerAPI) resize(w http.ResponseWriter, r *http.Request) error {
	rows, columns, err := windowParams(r)
	if err != nil {
		return err
	}
	return a.streams.Resize(r.Context(), r.PathValue("id"), rows, columns)
}

// windowParams reads the size of a terminal from the query.
func windowParams(r *http.Request) (rows, columns uint32, err error) {
	h, err1 := strconv.ParseUint(param(r, "h"), 10, 16)
	w, err2 := strconv.ParseUint(param(r, "w"), 10, 16)
	if err1 != nil || err2 != nil || h == 0 || w == 0 {
		return 0, 0, invalid("invalid terminal size %q x %q: must be 1 to 65535 each", param(r, "h"), param(r, "w"))
	}
	return uint32(h), uint32(w), nil
}

func (a *containerAPI) top(w http.ResponseWriter, r *http.Request) error {
	top, err := a.containers.Top(r.Context(), r.PathValue("id"), param(r, "ps_args"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, top)
}

func (a *containerAPI) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r)
	if err != nil {
		return err
	}
	before, err := untilFilter(f)
	if err != nil {
		return err
	}
	removed, err := a.containers.Prune(r.Context(), func(c ctr.Container) bool {
		return f.matchLabels(c.Config.Labels) && c.Created.Before(before)
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, container.PruneReport{ContainersDeleted: removed.IDs, SpaceReclaimed: uint64(max(0, removed.Bytes))})
}

// untilFilter reads the "until" filter: what was made before that time; without it, before now.
func untilFilter(f filters) (time.Time, error) {
	now := time.Now()
	switch len(f["until"]) {
	case 0:
		return now, nil
	case 1:
		return parseTime(f["until"][0], now)
	default:
		return now, invalid("more than one until filter specified")
	}
}

// parseTime reads a time as Docker's clients write it: Unix seconds with a fraction, RFC 3339, or a duration before now.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" || s == "0" {
		return time.Time{}, nil
	}
	if t, ok := unixTime(s); ok {
		return t, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, invalid("invalid time %q: must be Unix seconds, RFC 3339, or a duration", s)
}

// unixTime reads "seconds" or "seconds.fraction", at most nine digits of it.
func unixTime(s string) (time.Time, bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || len(fraction) > 9 || seconds < 0 || seconds > 1<<40 {
		return time.Time{}, false
	}
	nanos, err := strconv.ParseUint((fraction + "000000000")[:9], 10, 32)
	return time.Unix(seconds, int64(nanos)), err == nil
}
