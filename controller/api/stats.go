package api

import (
	"errors"
	"net/http"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	ctr "github.com/containervm/containervm/controller/internal/container"
)

func (a *containerAPI) pause(w http.ResponseWriter, r *http.Request) error {
	return noContent(w, a.containers.Pause(r.Context(), r.PathValue("id")))
}

func (a *containerAPI) unpause(w http.ResponseWriter, r *http.Request) error {
	return noContent(w, a.containers.Unpause(r.Context(), r.PathValue("id")))
}

// statsPace is the time between two samples: Docker's.
const statsPace = time.Second

// stats answers what a container uses: a sample every second until the client leaves or the container is removed, or one. That one comes with
// the sample of a second before, unless the client wants it at once.
func (a *containerAPI) stats(w http.ResponseWriter, r *http.Request) error {
	stream, oneShot := param(r, "stream") == "" || boolParam(r, "stream"), boolParam(r, "one-shot")
	if stream && oneShot {
		return invalid("cannot have stream=true and one-shot=true")
	}
	c, err := a.containers.Get(r.PathValue("id"))
	if err != nil {
		return err
	}
	if stream {
		return a.streamStats(w, r, c)
	}
	sample, err := a.containers.Stats(r.Context(), c)
	if err == nil && c.Running() && !oneShot {
		before := sample
		select {
		case <-time.After(statsPace):
		case <-r.Context().Done():
			return r.Context().Err()
		}
		sample, err = a.sample(r, c, before)
	}
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, sample)
}

// sample is one with the one before it. A container that has ended meanwhile uses nothing.
func (a *containerAPI) sample(r *http.Request, c ctr.Container, before container.StatsResponse) (container.StatsResponse, error) {
	now, err := a.containers.Get(c.ID)
	if err != nil {
		return before, err
	}
	sample, err := a.containers.Stats(r.Context(), now)
	sample.PreRead, sample.PreCPUStats = before.Read, before.CPUStats
	return sample, err
}

// streamStats sends samples. One that a guest does not give in time is left out: what a client shows grows old, as it should.
func (a *containerAPI) streamStats(w http.ResponseWriter, r *http.Request, c ctr.Container) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	if err := flush.Flush(); err != nil {
		return err
	}
	pace := time.NewTicker(statsPace)
	defer pace.Stop()
	var before container.StatsResponse
	for {
		sample, err := a.sample(r, c, before)
		switch {
		case errdefs.IsNotFound(err):
			return nil
		case err == nil:
			before = sample
			err = errors.Join(encodeJSON(w, sample), flush.Flush())
			if err != nil {
				return nil // the client has left
			}
		}
		select {
		case <-pace.C:
		case <-r.Context().Done():
			return nil
		}
	}
}
