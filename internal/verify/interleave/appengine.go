//go:build go1.25

package interleave

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/wire"
)

// apiError is the type of an error as the client library makes it of a service's
// answer. It is the library's own, and its transactions look for it.
var apiError = sync.OnceValue(func() reflect.Type {
	server, err := gaelocal.Start(gaelocal.Options{})
	if err != nil {
		panic(err)
	}
	defer server.Close()
	restore, err := server.Setenv()
	if err != nil {
		panic(err)
	}
	defer restore()
	_, err = memcache.Get(context.Background(), string(make([]byte, 300)))
	if t := reflect.TypeOf(err); t != nil && t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct {
		return t
	}
	panic(fmt.Sprintf("interleave: a malformed call answered %v, want an API error", err))
})

// prepare sets the environment for the test.
func prepare(t *testing.T) {
	t.Helper()
	apiError()
	// The application's name, but not in GAE_APPLICATION: with it, background
	// saves would be tried again with a context of their own, which goes to the
	// service by HTTP, around the explorer.
	t.Setenv("GAE_LONG_APP_ID", "local")
	t.Setenv("GAE_PARTITION", "dev")
}

func newAPIError(service string, code int32, detail string) error {
	v := reflect.New(apiError().Elem())
	v.Elem().FieldByName("Service").SetString(service)
	v.Elem().FieldByName("Code").SetInt(int64(code))
	v.Elem().FieldByName("Detail").SetString(detail)
	return v.Interface().(error)
}

// failures are what calls of the services answer that are made to fail.
var failures = sync.OnceValue(func() map[string]error {
	all := map[string]error{}
	for service := range serviceNames {
		all[service] = newAPIError(service, 3, "made to fail")
	}
	return all
})

// An appEngine is App Engine's services: a gaelocal server, called in this
// process.
type appEngine struct {
	*gaelocal.Server
	kept Kept
}

func (s appEngine) call(service, method string, request []byte) ([]byte, error) {
	response, err := s.Call(context.Background(), service, method, "", request)
	var e *gaelocal.Error
	if errors.As(err, &e) && !e.RPC {
		return nil, newAPIError(service, e.Code, e.Detail)
	}
	return response, err
}

// context returns one whose calls are made at once.
func (s appEngine) context() context.Context {
	return appengine.WithAPICallFunc(context.Background(), func(_ context.Context, service, method string, in, out protoadapt.MessageV1) error {
		response, err := s.call(service, method, encode(in))
		if err != nil {
			return err
		}
		return proto.Unmarshal(response, protoadapt.MessageV2Of(out))
	})
}

func encode(m protoadapt.MessageV1) []byte {
	b, err := proto.Marshal(protoadapt.MessageV2Of(m))
	if err != nil {
		panic(err)
	}
	return b
}

// decode reads what the client library or the server has encoded.
func decode[M proto.Message](b []byte, m M) M {
	if err := proto.Unmarshal(b, m); err != nil {
		panic(err)
	}
	return m
}

// The cache.

func (s appEngine) peek(id string) *item {
	request := &wire.MemcacheGetRequest{Key: [][]byte{[]byte(s.kept.Prefix + id)}, ForCas: proto.Bool(true), ForPeek: proto.Bool(true)}
	response, err := s.call("memcache", "Get", encode(protoadapt.MessageV1Of(request)))
	if err != nil {
		panic(err)
	}
	return gotItem(response)
}

func (s appEngine) evict(id string) { s.EvictMemcache("", s.kept.Prefix+id) }
func (s appEngine) flush()          { s.FlushMemcache() }

func (s appEngine) set(id string, value []byte) {
	if err := memcache.Set(s.context(), &memcache.Item{Key: s.kept.Prefix + id, Value: value, Expiration: timeout}); err != nil {
		panic(err)
	}
}

// gotItem is the item in the answer of a memcache Get; nil: none.
func gotItem(response []byte) *item {
	for _, it := range decode(response, &wire.MemcacheGetResponse{}).Item {
		return &item{value: it.Value, flags: it.GetFlags(), cas: it.GetCasId()}
	}
	return nil
}

// setItem is the item in the request of a memcache Set, and how it is set.
func setItem(request []byte) (*item, string) {
	it := decode(request, &wire.MemcacheSetRequest{}).Item[0]
	how := map[wire.MemcacheSetRequest_SetPolicy]string{
		wire.MemcacheSetRequest_SET: "set", wire.MemcacheSetRequest_ADD: "add", wire.MemcacheSetRequest_CAS: "cas",
	}[it.GetSetPolicy()]
	return &item{value: it.Value, flags: it.GetFlags(), cas: it.GetCasId(), ttl: time.Duration(it.GetExpirationTime()) * time.Second}, how
}

// The backup.

func (s appEngine) key(ctx context.Context, id string) *datastore.Key {
	return datastore.NewKey(ctx, s.kept.Kind, s.kept.Prefix+id, 0, nil)
}

func (s appEngine) record(id string) *record {
	request := &wire.GetRequest{Key: []*wire.Reference{{
		App:  proto.String(appID()),
		Path: &wire.Path{Element: []*wire.Path_Element{{Type: proto.String(s.kept.Kind), Name: proto.String(s.kept.Prefix + id)}}},
	}}}
	response, err := s.call("datastore_v3", "Get", encode(protoadapt.MessageV1Of(request)))
	if err != nil {
		panic(err)
	}
	b := decode(response, &wire.GetResponse{}).Entity[0].Entity
	if b == nil {
		return nil
	}
	e := decode(b, &wire.EntityProto{})
	r := &record{}
	var ok1, ok2 bool
	for _, p := range slices.Concat(e.Property, e.RawProperty) {
		switch v := p.GetValue(); {
		case p.GetName() == s.kept.Value && v.GetStringValue() != nil:
			r.value, ok1 = v.StringValue, true
		case p.GetName() == s.kept.Expires && v.Int64Value != nil:
			r.expires, ok2 = time.UnixMicro(v.GetInt64Value()), true
		}
	}
	if !ok1 || !ok2 {
		panic(fmt.Sprintf("interleave: an entity of kind %s has the properties %v", s.kept.Kind, e))
	}
	return r
}

// appID is the application's, as it is in keys.
var appID = sync.OnceValue(func() string {
	return datastore.NewKey(appEngine{}.context(), "kind", "name", 0, nil).AppID()
})

func (s appEngine) put(id string, r *record) {
	ctx := s.context()
	var err error
	if r == nil {
		err = datastore.Delete(ctx, s.key(ctx, id))
	} else {
		_, err = datastore.Put(ctx, s.key(ctx, id), &datastore.PropertyList{
			{Name: s.kept.Value, Value: r.value, NoIndex: true},
			{Name: s.kept.Expires, Value: r.expires},
		})
	}
	if err != nil {
		panic(err)
	}
}

// inCache and inBackup are the services as they are named in a trace.
const (
	inCache  = "cache"
	inBackup = "backup"
)

var serviceNames = map[string]string{"memcache": inCache, "datastore_v3": inBackup}

// withCalls returns a context whose calls of App Engine's services h holds.
func (w *world) withCalls(ctx context.Context, h holder) context.Context {
	txns := map[uint64]*transaction{}
	if a, ok := h.(*actor); ok {
		a.txns = txns
	}
	return appengine.WithAPICallFunc(ctx, func(ctx context.Context, service, method string, in, out protoadapt.MessageV1) error {
		c := w.appEngineCall(ctx, txns, service, method, encode(in))
		if err := h.hold(c); err != nil {
			return err
		}
		return proto.Unmarshal(c.response, protoadapt.MessageV2Of(out))
	})
}

// A transaction is one of a request.
type transaction struct {
	handle []byte
	began  time.Time
	read   int // version of the entity it read; 0: not yet
	over   bool
	ids    []string // of the records that it writes
}

// transactionTime is how long a transaction of Datastore may take.
// https://cloud.google.com/datastore/docs/concepts/cloud-datastore-transactions
const transactionTime = 270 * time.Second

func (w *world) appEngineCall(ctx context.Context, txns map[uint64]*transaction, service, method string, request []byte) *call {
	c := &call{ctx: ctx, service: serviceNames[service], method: method, request: request, failure: failures()[service]}
	c.prepare = func() { w.describe(c, txns) }
	c.perform = func() (err error) {
		c.response, err = w.performOnAppEngine(c, txns, service)
		return err
	}
	return c
}

// inTransaction returns the handle of the transaction that a call is part of; 0:
// none. Only the client library knows, and says so in the context.
func inTransaction(c *call) uint64 {
	switch c.method {
	case "Commit", "Rollback":
		return decode(c.request, &wire.Transaction{}).GetHandle()
	case "Get", "Put", "Delete":
		if c.service != inBackup {
			return 0
		}
	default:
		return 0
	}
	for ctx := range ancestors(c.ctx) {
		v := reflect.Indirect(reflect.ValueOf(ctx))
		form := formOf(v.Type())
		if form.value == nil {
			continue
		}
		v = v.FieldByIndex(form.value)
		if v.Elem().Kind() != reflect.Pointer || v.Elem().Elem().Kind() != reflect.Struct {
			continue
		}
		if t := v.Elem().Elem().FieldByName("transaction"); t.IsValid() && t.Kind() == reflect.Struct {
			if handle := t.FieldByName("Handle"); handle.IsValid() && !handle.IsNil() {
				return handle.Elem().Uint()
			}
		}
	}
	return 0
}

// describe names a call.
func (w *world) describe(c *call, txns map[uint64]*transaction) {
	c.txn = txns[inTransaction(c)]
	txn := c.txn
	c.ids = w.appEngine.idsOf(c)
	switch c.service + "." + c.method {
	case "cache.Get":
		c.name = "get"
	case "cache.Set":
		var how string
		c.item, how = setItem(c.request)
		c.name = how + ":" + kindName(c.item)
		c.answer = func() []token { return []token{word(string(c.response))} }
	case "backup.BeginTransaction":
		c.name = "begin"
	case "backup.Commit":
		c.name = "commit"
	case "backup.Rollback":
		c.name = "rollback"
	case "backup.RunQuery", "backup.Next":
		c.name = map[string]string{"RunQuery": "query", "Next": "next"}[c.method]
		c.answer = func() (tokens []token) {
			for _, id := range w.ids() {
				tokens = append(tokens, word(fmt.Sprint(bytes.Contains(c.response, []byte(id)))))
			}
			return tokens
		}
	case "backup.Get", "backup.Put", "backup.Delete":
		c.name = map[string]string{"Get": "ds-get", "Put": "ds-put", "Delete": "ds-delete"}[c.method]
		if txn != nil {
			c.name = "txn" + c.name[2:]
		}
		switch c.method {
		case "Get":
			c.answer = func() []token {
				tokens := w.recordTokensOf(c.ids)
				if c.name == "txn-get" && txn.read != w.version {
					// It reads what was there when it began to read.
					tokens = append(slices.Clone(tokens), word("stale"), ident("response", string(c.response)))
				}
				return tokens
			}
		case "Put":
			c.values = putValues(c.request, w.appEngine.kept.Value)
		}
	default:
		c.name = c.service + "." + c.method
	}
}

func (w *world) performOnAppEngine(c *call, txns map[uint64]*transaction, service string) ([]byte, error) {
	txn := c.txn
	if w.breach.call != nil && c.actor != nil {
		if response, err, done := w.breach.call(w, c, txn); done {
			return response, err
		}
	}
	request := c.request
	switch c.name {
	case "txn-get", "txn-put", "txn-delete", "commit":
		if time.Since(txn.began) > transactionTime {
			return nil, w.expireTransaction(c, txn)
		}
	}
	switch c.name {
	case "txn-delete":
		in := decode(request, &wire.DeleteRequest{})
		in.Transaction = decode(txn.handle, &wire.Transaction{})
		request = encode(protoadapt.MessageV1Of(in))
	case "txn-get", "txn-put":
		request = withTransaction(request, txn.handle)
		if c.name == "txn-get" && txn.read == 0 {
			txn.read = w.version
		}
	}
	response, err := w.appEngine.call(service, c.method, request)
	switch {
	case c.name == "begin" && err == nil:
		txns[decode(response, &wire.Transaction{}).GetHandle()] = &transaction{handle: response, began: time.Now()}
	case c.name == "rollback":
		txn.over = true
	case c.name == "get" && err == nil:
		c.got = gotItem(response)
	}
	return response, err
}

// expireTransaction is the answer of a call in a transaction that has taken too
// long, which is not tried again.
func (w *world) expireTransaction(c *call, txn *transaction) error {
	if c.actor != nil {
		c.actor.hits = w.scenario.retries
	}
	if c.name == "commit" { // no rollback follows
		txn.over = true
		if _, err := w.appEngine.call("datastore_v3", "Rollback", c.request); err != nil {
			return err
		}
	}
	return newAPIError("datastore_v3", 1, "the transaction has expired")
}

// withTransaction puts a transaction, as BeginTransaction answered it, into the
// request of a datastore_v3 Get or Put. The client library does so only below
// the function that the calls go through here. An encoded message may be
// continued with further fields, and these two requests have it in the same one.
func withTransaction(request, handle []byte) []byte {
	more := &wire.GetRequest{Transaction: decode(handle, &wire.Transaction{})}
	return append(slices.Clip(request), encode(protoadapt.MessageV1Of(more))...)
}

// putValues are the values of a property in the request of a datastore_v3 Put.
func putValues(request []byte, property string) (values [][]byte) {
	for _, e := range decode(request, &wire.PutRequest{}).Entity {
		for _, p := range slices.Concat(e.Property, e.RawProperty) {
			if p.GetName() == property {
				values = append(values, p.GetValue().GetStringValue())
			}
		}
	}
	return values
}

// idsOf are the ids of the sessions that a call is about.
func (s appEngine) idsOf(c *call) (ids []string) {
	key := func(k []byte) { ids = append(ids, strings.TrimPrefix(string(k), s.kept.Prefix)) }
	path := func(r *wire.Reference) {
		if e := r.GetPath().GetElement(); len(e) > 0 {
			key([]byte(e[len(e)-1].GetName()))
		}
	}
	switch c.service + "." + c.method {
	case "cache.Get":
		for _, k := range decode(c.request, &wire.MemcacheGetRequest{}).Key {
			key(k)
		}
	case "cache.Set":
		for _, it := range decode(c.request, &wire.MemcacheSetRequest{}).Item {
			key(it.Key)
		}
	case "backup.Get":
		for _, r := range decode(c.request, &wire.GetRequest{}).Key {
			path(r)
		}
	case "backup.Put":
		for _, e := range decode(c.request, &wire.PutRequest{}).Entity {
			path(e.Key)
		}
	}
	return ids
}
