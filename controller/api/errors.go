package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/common"

	"github.com/containervm/containervm/internal/printable"
)

// errPage answers paths that the API does not have, in Docker's words.
var errPage = errdefs.ErrNotFound.WithMessage("page not found")

// statusOf is the HTTP status of an error's class. Docker's API reference gives the statuses for each endpoint; the
// mapping by class is moby's (daemon/server/httpstatus).
func statusOf(err error) int {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errdefs.IsNotFound(err):
		return http.StatusNotFound
	case errdefs.IsInvalidArgument(err), errdefs.IsOutOfRange(err):
		return http.StatusBadRequest
	case errdefs.IsConflict(err), errdefs.IsAlreadyExists(err), errdefs.IsFailedPrecondition(err):
		return http.StatusConflict
	case errdefs.IsUnauthorized(err):
		return http.StatusUnauthorized
	case errdefs.IsPermissionDenied(err):
		return http.StatusForbidden
	case errdefs.IsNotModified(err):
		return http.StatusNotModified
	case errdefs.IsNotImplemented(err):
		return http.StatusNotImplemented
	case errdefs.IsUnavailable(err), errdefs.IsResourceExhausted(err):
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// fail answers an error in Docker's form. When the answer has begun, the connection is broken off: a client is not to take what it has for
// all of it.
func (r *router) fail(w *answer, req *http.Request, err error) {
	if errors.Is(err, context.Canceled) && req.Context().Err() != nil {
		return // the client has left
	}
	if w.begun {
		r.log.Warn("an answer ended early", "method", req.Method, "path", req.URL.Path, "err", err)
		panic(http.ErrAbortHandler)
	}
	status := statusOf(err)
	if status >= http.StatusInternalServerError && status != http.StatusNotImplemented {
		r.log.Error("cannot serve a request", "method", req.Method, "path", req.URL.Path, "err", err)
	}
	writeError(w, status, err.Error())
}

func writeError(w http.ResponseWriter, status int, message string) {
	if status == http.StatusNotModified {
		w.WriteHeader(status) // has no body (RFC 9110, 15.4.5)
		return
	}
	_ = writeJSON(w, status, common.ErrorResponse{Message: printable.Text(message)})
}
