package supervisor

import tetherv1 "github.com/containervm/containervm/tether/link/v1"

// isOver reports whether the container's process has ended or never ran.
func isOver(s *tetherv1.Status) bool {
	return s.State == tetherv1.State_EXITED || s.State == tetherv1.State_FAILED
}
