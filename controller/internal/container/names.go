package container

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/containervm/containervm/controller/internal/record"
)

// validName is Docker's rule for names, but that one character is enough.
var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// ClaimName reserves a name until release is called; an empty one is chosen. The reservation covers the time from here
// to the VM's appearance in the inventory.
func (s *Service) ClaimName(name string) (claimed string, release func(), err error) {
	asked := name
	name = strings.TrimPrefix(name, "/")
	if name != "" && !validName.MatchString(name) {
		return "", nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
			"Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", asked))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.namesLocked()
	if name == "" {
		name = freeName(taken)
	} else if id, ok := taken[name]; ok {
		return "", nil, nameConflict(name, id)
	}
	s.claimed[name] = true
	return name, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.claimed, name)
	}, nil
}

// namesLocked maps the names of all containers to their IDs; those that are being made have none yet.
func (s *Service) namesLocked() map[string]string {
	taken := map[string]string{}
	for name := range s.claimed {
		taken[name] = "being created"
	}
	for _, vm := range s.host.VMs() {
		if vm.Extra[record.KeyRole] == record.RoleContainer {
			taken[vm.Extra[record.KeyName]] = vm.Name
		}
	}
	return taken
}

func nameConflict(name, id string) error {
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf(
		"Conflict. The container name %q is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", "/"+name, id))
}

// freeName returns a random name of two words that is not taken, with a number behind it after some tries.
func freeName(taken map[string]string) string {
	for try := 0; ; try++ {
		name := pick(adjectives) + "_" + pick(people)
		if try > 5 {
			name += fmt.Sprint(try)
		}
		if _, ok := taken[name]; !ok {
			return name
		}
	}
}

func pick(words string) string {
	all := strings.Fields(words)
	n, _ := rand.Int(rand.Reader, big.NewInt(int64(len(all)))) // never fails (crypto/rand)
	return all[n.Int64()]
}

const (
	adjectives = `able agile airy amber apt bold brave brisk calm candid cheery civil clever cosmic crisp daring deft eager early
		fair fine firm fond frank free fresh gentle glad grand happy hardy honest humble jolly keen kind lively loyal lucid lucky merry
		mild neat nimble noble patient plain proud quick quiet rapid ready robust sage serene sharp shrewd silver sleek smart snug sober
		solid spry steady still sturdy subtle sunny swift tidy tough trusty upbeat vivid warm wise witty zesty`
	people = `abel adams aiken allen babbage backus banach barton bell bohr boole borg brooks cantor cerf church codd conway curie
		dijkstra dirac edison engelbart erdos euler fano faraday fermat feynman floyd galileo gauss germain goldberg gray hamilton hamming
		hertz hilbert hoare hopper hypatia iverson jacobi jones kalman karp kay kepler kernighan kilby kleene knuth kolmogorov lamport
		leibniz liskov lovelace maxwell mccarthy meitner moore morse naur newton noether nyquist pascal pasteur perlman planck postel
		ritchie rivest sammet shannon shamir stallman tarjan tesla thompson torvalds turing ulam volta wiener wilkes wirth zuse`
)
