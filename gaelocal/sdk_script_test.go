package gaelocal_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"google.golang.org/appengine/v2"
	"google.golang.org/appengine/v2/datastore"
	"google.golang.org/appengine/v2/memcache"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A side is one of the two servers that are compared: Google's and gaelocal.
type side struct {
	name string
	// context returns the context of a new request in a namespace.
	context func(namespace ...string) context.Context
}

// A script makes calls and notes every answer. Two servers behave alike when
// the notes of the same script are the same.
type script struct {
	side  side
	space string // the script's own namespace
	notes []string
}

func newScript(side side, space string) *script { return &script{side: side, space: space} }

func (s *script) ctx() context.Context { return s.side.context(s.space) }

func (s *script) note(format string, args ...any) {
	s.notes = append(s.notes, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", `\n`))
}

// ask notes the error of a call.
func (s *script) ask(what string, err error) { s.note("%s: %s", what, errorText(err)) }

func (s *script) key(kind, name string, id int64, parent *datastore.Key) *datastore.Key {
	return datastore.NewKey(s.ctx(), kind, name, id, parent)
}

// Things that differ from run to run, in texts of errors.
var opaque = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`handle: -?\d+`), "handle: H"},
	{regexp.MustCompile(`handle:-?\d+`), "handle:H"},
	{regexp.MustCompile(`Cursor \d+ not found`), "Cursor N not found"},
	{regexp.MustCompile(`missing values for \{.*\}`), "missing values for {…}"}, // a set of Python, in any order
	{regexp.MustCompile("\u00a0"), " "},                                         // protobuf varies the spaces of its errors
}

// errorText is an error with its code and text, as far as they are the same
// from run to run.
func errorText(err error) string {
	if err == nil {
		return "ok"
	}
	var several appengine.MultiError
	if errors.As(err, &several) {
		texts := make([]string, len(several))
		for i, err := range several {
			texts[i] = errorText(err)
		}
		return "[" + strings.Join(texts, ", ") + "]"
	}
	text := err.Error()
	for _, o := range opaque {
		text = o.pattern.ReplaceAllString(text, o.text)
	}
	return text
}

func itemText(item *memcache.Item, err error) string {
	if err != nil {
		return errorText(err)
	}
	return fmt.Sprintf("%s flags=%d", brief(item.Value), item.Flags)
}

// brief is a value, shortened when long.
func brief[T string | []byte](value T) string {
	if len(value) > 60 {
		return fmt.Sprintf("%q…(%d bytes)", string(value[:10]), len(value))
	}
	return fmt.Sprintf("%q", string(value))
}

func keyText(key *datastore.Key) string {
	if key == nil {
		return "nil"
	}
	text := key.String()
	if len(text) > 120 {
		text = fmt.Sprintf("%s…(%d bytes)", text[:20], len(text))
	}
	return key.Namespace() + "|" + strings.Trim(strconv.Quote(text), `"`)
}

func keysText(keys []*datastore.Key) string {
	texts := make([]string, len(keys))
	for i, key := range keys {
		texts[i] = keyText(key)
	}
	return "[" + strings.Join(texts, " ") + "]"
}

func entityText(properties datastore.PropertyList) string {
	texts, projected := make([]string, len(properties)), false
	for i, p := range properties {
		value := ""
		switch v := p.Value.(type) {
		case string:
			value = brief(v)
		case []byte:
			value = brief(v)
		case datastore.ByteString:
			value = brief([]byte(v))
		case appengine.BlobKey:
			value = brief(string(v))
		case *datastore.Key:
			value = keyText(v)
		case time.Time:
			value = v.UTC().Format(time.RFC3339Nano)
		case nil, int64, bool, float64, appengine.GeoPoint:
			value = fmt.Sprint(v)
		default:
			value, projected = projectedText(v), true
		}
		texts[i] = fmt.Sprintf("%s=%T(%s)", p.Name, p.Value, value)
		if p.NoIndex {
			texts[i] += " noindex"
		}
		if p.Multiple {
			texts[i] += " multiple"
		}
	}
	if projected {
		sort.Strings(texts) // Google's server has them in any order
	}
	return "{" + strings.Join(texts, ", ") + "}"
}

// projectedText is any other value. The client hides those of a projection,
// which have no type, behind an unexported struct.
func projectedText(value any) string {
	v := reflect.ValueOf(value)
	if v.Kind() != reflect.Struct || v.NumField() != 1 || v.Field(0).Kind() != reflect.Pointer {
		return fmt.Sprint(value)
	}
	pointer := v.Field(0)
	if pointer.IsNil() {
		return "none"
	}
	var texts []string
	for i := 0; i < pointer.Elem().NumField(); i++ {
		name, field := pointer.Elem().Type().Field(i).Name, pointer.Elem().Field(i)
		if !strings.HasSuffix(strings.ToLower(name), "value") || field.Kind() != reflect.Pointer || field.IsNil() {
			continue
		}
		switch field = field.Elem(); field.Kind() {
		case reflect.Int64:
			texts = append(texts, fmt.Sprint(name, " ", field.Int()))
		case reflect.Bool:
			texts = append(texts, fmt.Sprint(name, " ", field.Bool()))
		case reflect.Float64:
			texts = append(texts, fmt.Sprint(name, " ", field.Float()))
		case reflect.String:
			texts = append(texts, fmt.Sprintf("%s %q", name, field.String()))
		default:
			texts = append(texts, name)
		}
	}
	return strings.Join(texts, ", ")
}

// The wire format, for what the client packages cannot be made to send.

type message []byte

func (m message) varint(field protowire.Number, value uint64) message {
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), value)
}

func (m message) fixed32(field protowire.Number, value uint32) message {
	return protowire.AppendFixed32(protowire.AppendTag(m, field, protowire.Fixed32Type), value)
}

func (m message) fixed64(field protowire.Number, value uint64) message {
	return protowire.AppendFixed64(protowire.AppendTag(m, field, protowire.Fixed64Type), value)
}

func (m message) bytes(field protowire.Number, value string) message {
	return protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), value)
}

func (m message) group(field protowire.Number, inner message) message {
	m = append(protowire.AppendTag(m, field, protowire.StartGroupType), inner...)
	return protowire.AppendTag(m, field, protowire.EndGroupType)
}

// call sends a message as it is: fields that a message type does not know are
// sent and received unchanged, and Empty knows none.
func call(ctx context.Context, service, method string, request message) (message, error) {
	in, out := new(emptypb.Empty), new(emptypb.Empty)
	in.ProtoReflect().SetUnknown([]byte(request))
	err := appengine.APICall(ctx, service, method, in, out)
	return message(out.ProtoReflect().GetUnknown()), err
}

// text shows the fields of a message, groups in braces, without those hidden.
func (m message) text(hidden ...protowire.Number) string {
	var fields []string
	for rest := []byte(m); len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return fmt.Sprintf("not a message: %q", rest)
		}
		rest = rest[n:]
		text := ""
		switch kind {
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(rest)
			text, rest = fmt.Sprint(v), rest[max(n, 0):]
		case protowire.Fixed32Type:
			v, n := protowire.ConsumeFixed32(rest)
			text, rest = fmt.Sprint(v), rest[max(n, 0):]
		case protowire.Fixed64Type:
			v, n := protowire.ConsumeFixed64(rest)
			text, rest = fmt.Sprint(v), rest[max(n, 0):]
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(rest)
			text, rest = brief(v), rest[max(n, 0):]
		case protowire.StartGroupType:
			v, n := protowire.ConsumeGroup(number, rest)
			text, rest = "{"+message(v).text(hidden...)+"}", rest[max(n, 0):]
		default:
			return fmt.Sprintf("not a message: %q", rest)
		}
		hide := false
		for _, h := range hidden {
			hide = hide || h == number
		}
		if !hide {
			fields = append(fields, fmt.Sprintf("%d:%s", number, text))
		}
	}
	return strings.Join(fields, " ")
}

// errorer is what testing.T and rapid.T have in common here.
type errorer interface {
	Helper()
	Errorf(format string, args ...any)
}

// compare fails t where the notes of two runs differ, and shows the place.
// Differences between gaelocal and Google's server that are listed may be.
func compare(t errorer, gotName string, got []string, wantName string, want []string) {
	t.Helper()
	const shown = 8
	different := 0
	for i := 0; i < len(got) || i < len(want); i++ {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g == w {
			continue
		}
		if d := listed(w, g); d != nil && gotName == "gaelocal" {
			usedDifferences.Store(d.name, true)
			if d.rest {
				return
			}
			continue
		}
		if different++; different <= shown {
			t.Errorf("step %d\n%12s: %s\n%12s: %s", i, gotName, g, wantName, w)
		}
	}
	if different > shown {
		t.Errorf("and %d more differences", different-shown)
	}
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
