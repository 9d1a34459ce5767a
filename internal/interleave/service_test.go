//go:build go1.25

package interleave

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"testing"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/memcache"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/tiered"
)

// apiError is an error as the client library makes it of a service's answer. Its
// type is the library's own, and its transactions look for it.
var apiError reflect.Type

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func prepare() error {
	server, err := gaelocal.Start(gaelocal.Options{})
	if err != nil {
		return err
	}
	restore, err := server.Setenv()
	if err != nil {
		return err
	}
	_, err = memcache.Get(context.Background(), string(make([]byte, 300)))
	restore()
	apiError = reflect.TypeOf(err)
	if apiError == nil || apiError.Kind() != reflect.Pointer || apiError.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("a malformed call answered %v, want an API error", err)
	}
	// The application's name, but not in GAE_APPLICATION: with it, background
	// saves would be tried again with a context of their own, which goes to the
	// service by HTTP, around the explorer.
	return errors.Join(os.Setenv("GAE_LONG_APP_ID", "local"), os.Setenv("GAE_PARTITION", "dev"), server.Close())
}

func newAPIError(service string, code int32, detail string) error {
	v := reflect.New(apiError.Elem())
	v.Elem().FieldByName("Service").SetString(service)
	v.Elem().FieldByName("Code").SetInt(int64(code))
	v.Elem().FieldByName("Detail").SetString(detail)
	return v.Interface().(error)
}

// failure is what a call answers that is made to fail.
func failure(service string) error {
	if service == "memcache" {
		return newAPIError(service, 1, "made to fail")
	}
	return newAPIError(service, 3, "made to fail")
}

// A service is a gaelocal server, called in this process.
type service struct{ *gaelocal.Server }

func (s service) call(service, method string, request []byte) ([]byte, error) {
	response, err := s.Call(context.Background(), service, method, "", request)
	var e *gaelocal.Error
	if errors.As(err, &e) && !e.RPC {
		return nil, newAPIError(service, e.Code, e.Detail)
	}
	return response, err
}

// context returns one whose calls are made at once, but for those that fail
// names.
func (s service) context(fail func(service, method string) bool) context.Context {
	var transaction []byte
	alone := tiered.OnInstance(context.Background(), &transaction)
	return appengine.WithAPICallFunc(alone, func(_ context.Context, service, method string, in, out protoadapt.MessageV1) error {
		if fail != nil && fail(service, method) {
			return failure(service)
		}
		request, err := proto.Marshal(protoadapt.MessageV2Of(in))
		if err != nil {
			return err
		}
		switch {
		case service == "datastore_v3" && (method == "Get" || method == "Put") && transaction != nil:
			request = withTransaction(request, transaction)
		case method == "Commit" || method == "Rollback":
			transaction = nil
		}
		response, err := s.call(service, method, request)
		if err != nil {
			return err
		}
		if method == "BeginTransaction" {
			transaction = response
		}
		return proto.Unmarshal(response, protoadapt.MessageV2Of(out))
	})
}
