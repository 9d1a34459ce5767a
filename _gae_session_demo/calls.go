package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A call is one call to an App Engine service.
type call struct {
	Service string // "memcache" or "datastore_v3"
	Method  string // as the service calls it
	Note    string // what came of it; may be empty
	Saving  bool   // made after the session was loaded
	Failed  bool
	Start   time.Duration // since the request began
	Took    time.Duration // 0 while it is under way
}

// calls records the calls that one request makes.
type calls struct {
	began time.Time

	mu     sync.Mutex
	saving bool
	list   []call
}

// watch returns a context whose calls are recorded.
func (c *calls) watch(ctx context.Context) context.Context {
	return appengine.WithAPICallFunc(ctx, func(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
		i := c.begin(service, methodName(method, in))
		err := appengine.APICall(ctx, service, method, in, out)
		c.end(i, outcome(service, method, out), err != nil)
		return err
	})
}

func (c *calls) begin(service, method string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, call{Service: service, Method: method, Saving: c.saving, Start: time.Since(c.began)})
	return len(c.list) - 1
}

func (c *calls) end(i int, note string, failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list[i].Took = time.Since(c.began) - c.list[i].Start
	c.list[i].Failed = failed
	if !failed {
		c.list[i].Note = note
	}
}

// loaded notes that the session is loaded: what follows saves it.
func (c *calls) loaded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.saving = true
}

// all returns the calls so far, in the order in which they began.
func (c *calls) all() []call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.list)
}

// methodName is the method, and for Memcache's Set the way in which it sets.
func methodName(method string, in protoadapt.MessageV1) string {
	if item := first(in, "item"); item != nil {
		if policy := item.Descriptor().Fields().ByName("set_policy"); policy != nil {
			switch policy.Enum().Values().ByNumber(item.Get(policy).Enum()).Name() {
			case "ADD":
				return "Add"
			case "CAS":
				return "CompareAndSwap"
			}
		}
	}
	return method
}

// outcome says whether a Get found what it asked for.
func outcome(service, method string, out protoadapt.MessageV1) string {
	switch service + "." + method {
	case "memcache.Get":
		if first(out, "item") == nil {
			return "miss"
		}
		return "hit"
	case "datastore_v3.Get":
		result := first(out, "entity")
		if result == nil || !result.Has(result.Descriptor().Fields().ByName("entity")) {
			return "none"
		}
		return "found"
	}
	return ""
}

// first is the first message in a repeated field. The types of the services'
// messages are internal to the appengine package, so the field is found by its
// name; nil when there is none.
func first(m protoadapt.MessageV1, field protoreflect.Name) protoreflect.Message {
	r := protoadapt.MessageV2Of(m).ProtoReflect()
	f := r.Descriptor().Fields().ByName(field)
	if f == nil || !f.IsList() || f.Message() == nil || r.Get(f).List().Len() == 0 {
		return nil
	}
	return r.Get(f).List().Get(0).Message()
}
