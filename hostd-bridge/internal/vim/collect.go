package vim

import (
	"crypto/rand"
	"maps"
	"slices"

	"github.com/vmware/govmomi/vim25/types"
)

// maxPages bounds the answers of a session that wait for ContinueRetrievePropertiesEx.
const maxPages = 64

// scope is what a session can see.
type scope struct {
	objects *objects
	session *session
}

func (c *call) scope() scope { return scope{objects: c.server.objects, session: c.session} }

// selection finds the objects that a filter names, each once, in the order in which they are met.
type selection struct {
	scope
	named map[string]*types.TraversalSpec
	seen  map[visit]bool
	refs  []types.ManagedObjectReference
	added map[types.ManagedObjectReference]bool
}

// visit is a step of a traversal; doing it twice would find nothing new, or never end.
type visit struct {
	obj  types.ManagedObjectReference
	spec *types.TraversalSpec
}

func (s scope) choose(spec *types.PropertyFilterSpec) ([]types.ManagedObjectReference, error) {
	sel := selection{
		scope: s, named: map[string]*types.TraversalSpec{},
		seen: map[visit]bool{}, added: map[types.ManagedObjectReference]bool{},
	}
	for n := range spec.ObjectSet {
		set := &spec.ObjectSet[n]
		object, ok := s.objects.get(s.session, set.Obj)
		if !ok {
			if isTrue(spec.ReportMissingObjectsInResults) {
				continue
			}
			return nil, notFound(set.Obj)
		}
		sel.learn(set.SelectSet)
		if !isTrue(set.Skip) {
			sel.add(set.Obj)
		}
		if err := sel.follow(set.Obj, object, set.SelectSet); err != nil {
			return nil, err
		}
	}
	return sel.refs, nil
}

// learn keeps the named traversals: others refer to them.
func (s *selection) learn(specs []types.BaseSelectionSpec) {
	for _, spec := range specs {
		if t, ok := spec.(*types.TraversalSpec); ok {
			if t.Name != "" && s.named[t.Name] == nil {
				s.named[t.Name] = t
			}
			s.learn(t.SelectSet)
		}
	}
}

func (s *selection) add(ref types.ManagedObjectReference) {
	if !s.added[ref] {
		s.added[ref] = true
		s.refs = append(s.refs, ref)
	}
}

func (s *selection) follow(ref types.ManagedObjectReference, object any, specs []types.BaseSelectionSpec) error {
	for _, spec := range specs {
		t, ok := spec.(*types.TraversalSpec)
		if !ok {
			if t = s.named[spec.GetSelectionSpec().Name]; t == nil {
				return invalidArgument("selectSet", "no traversal has the name %q", spec.GetSelectionSpec().Name)
			}
		}
		if step := (visit{ref, t}); !isA(object, t.Type) || s.seen[step] {
			continue
		} else {
			s.seen[step] = true
		}
		if err := s.step(object, t); err != nil {
			return err
		}
	}
	return nil
}

func (s *selection) step(object any, t *types.TraversalSpec) error {
	value, err := property(object, t.Path)
	if err != nil {
		return err
	}
	for _, ref := range references(value) {
		next, ok := s.objects.get(s.session, ref)
		if !ok {
			continue // gone since
		}
		if !isTrue(t.Skip) {
			s.add(ref)
		}
		if err := s.follow(ref, next, t.SelectSet); err != nil {
			return err
		}
	}
	return nil
}

func isTrue(b *bool) bool { return b != nil && *b }

// read returns the properties of an object that the specs ask for, in the order in which they do; ok is false when no
// spec is about objects of its type.
func read(object any, specs []types.PropertySpec) (names []string, values map[string]any, ok bool, err error) {
	values = map[string]any{}
	for n := range specs {
		spec := &specs[n]
		if !isA(object, spec.Type) {
			continue
		}
		ok = true
		if isTrue(spec.All) {
			all := allProperties(object)
			for _, name := range slices.Sorted(maps.Keys(all)) {
				names, values = put(names, values, name, all[name])
			}
			continue
		}
		for _, path := range spec.PathSet {
			value, err := property(object, path)
			if err != nil {
				return nil, nil, false, err
			}
			if value != nil {
				names, values = put(names, values, path, value)
			}
		}
	}
	return names, values, ok, nil
}

func put(names []string, values map[string]any, name string, value any) ([]string, map[string]any) {
	if _, ok := values[name]; !ok {
		names = append(names, name)
	}
	values[name] = value
	return names, values
}

// retrieve answers a RetrieveProperties of any kind.
func (s scope) retrieve(specs []types.PropertyFilterSpec) ([]types.ObjectContent, error) {
	var out []types.ObjectContent
	done := map[types.ManagedObjectReference]bool{}
	for n := range specs {
		refs, err := s.choose(&specs[n])
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			content, ok, err := s.content(ref, specs[n].PropSet)
			if err != nil {
				return nil, err
			}
			if ok && !done[ref] {
				done[ref] = true
				out = append(out, content)
			}
		}
	}
	return out, nil
}

func (s scope) content(ref types.ManagedObjectReference, specs []types.PropertySpec) (types.ObjectContent, bool, error) {
	content := types.ObjectContent{Obj: ref}
	object, ok := s.objects.get(s.session, ref)
	if !ok {
		return content, false, nil
	}
	names, values, ok, err := read(object, specs)
	for _, name := range names {
		content.PropSet = append(content.PropSet, types.DynamicProperty{Name: name, Val: values[name]})
	}
	return content, ok, err
}

func retrieveProperties(c *call, req *types.RetrieveProperties) (*types.RetrievePropertiesResponse, error) {
	content, err := c.scope().retrieve(req.SpecSet)
	return &types.RetrievePropertiesResponse{Returnval: content}, err
}

func retrievePropertiesEx(c *call, req *types.RetrievePropertiesEx) (*types.RetrievePropertiesExResponse, error) {
	content, err := c.scope().retrieve(req.SpecSet)
	if err != nil {
		return nil, err
	}
	if len(content) == 0 {
		return &types.RetrievePropertiesExResponse{}, nil
	}
	page := c.session.page(content, int(req.Options.MaxObjects))
	return &types.RetrievePropertiesExResponse{Returnval: &page}, nil
}

func continueRetrieve(c *call, req *types.ContinueRetrievePropertiesEx) (*types.ContinueRetrievePropertiesExResponse, error) {
	rest, ok := c.session.rest(req.Token)
	if !ok {
		return nil, fault(&types.InvalidProperty{Name: "token"}, "no retrieval has the token %q", req.Token)
	}
	return &types.ContinueRetrievePropertiesExResponse{Returnval: c.session.page(rest.content, rest.size)}, nil
}

func cancelRetrieve(c *call, req *types.CancelRetrievePropertiesEx) (*types.CancelRetrievePropertiesExResponse, error) {
	c.session.rest(req.Token)
	return &types.CancelRetrievePropertiesExResponse{}, nil
}

// pages is what is left of a retrieval.
type pages struct {
	content []types.ObjectContent
	size    int
}

// page returns at most size objects and keeps the rest under a token; a size of 0 means all.
func (x *session) page(content []types.ObjectContent, size int) types.RetrieveResult {
	if size <= 0 || len(content) <= size {
		return types.RetrieveResult{Objects: content}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.pages) >= maxPages {
		clear(x.pages) // a client that fetches none of them loses them
	}
	token := rand.Text()
	x.pages[token] = pages{content: content[size:], size: size}
	return types.RetrieveResult{Token: token, Objects: content[:size]}
}

func (x *session) rest(token string) (pages, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p, ok := x.pages[token]
	delete(x.pages, token)
	return p, ok
}
