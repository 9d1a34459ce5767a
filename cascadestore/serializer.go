package cascadestore

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"

	"github.com/gorilla/sessions"

	"github.com/gaesession/gaesession/internal/gobstream"
	"github.com/gaesession/gaesession/internal/scalargob"
)

// SessionSerializer turns a session's Values into bytes and back. A session is
// decoded more often than it is loaded, to see what changed and to merge
// changes, so Deserialize must give the same Values for the same bytes and set
// nothing but Values. A panic counts as an error.
type SessionSerializer interface {
	Deserialize(d []byte, ss *sessions.Session) error
	Serialize(ss *sessions.Session) ([]byte, error)
}

// GobSerializer encodes Values with encoding/gob. Types of its own the app has
// to make known with gob.Register.
type GobSerializer struct{}

// scalars is how gob writes Values.
var scalars = scalargob.Of(&map[any]any{"a": 1})

// Serialize implements SessionSerializer.
func (GobSerializer) Serialize(ss *sessions.Session) ([]byte, error) {
	if b := scalars.Encode(&ss.Values); b != nil {
		return b, nil
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(ss.Values); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Deserialize implements SessionSerializer. It refuses bytes that claim to hold
// more than they can.
func (GobSerializer) Deserialize(d []byte, ss *sessions.Session) error {
	if scalars.Decode(d, &ss.Values) {
		return nil
	}
	d, err := gobstream.Checked(d)
	if err != nil {
		return err
	}
	return gob.NewDecoder(bytes.NewReader(d)).Decode(&ss.Values)
}

// JSONSerializer encodes Values as a JSON object, so every key has to be a
// string. Values come back as the types encoding/json decodes into an
// interface: a number is a float64, a list of flashes is a []any, a struct is a
// map.
type JSONSerializer struct{}

// Serialize implements SessionSerializer. It is an error when a key is no
// string.
func (JSONSerializer) Serialize(ss *sessions.Session) ([]byte, error) {
	values := make(map[string]any, len(ss.Values))
	for k, v := range ss.Values {
		name, ok := k.(string)
		if !ok {
			return nil, fmt.Errorf("a key of type %T: only string keys can be saved as JSON", k)
		}
		values[name] = v
	}
	return json.Marshal(values)
}

// Deserialize implements SessionSerializer.
func (JSONSerializer) Deserialize(d []byte, ss *sessions.Session) error {
	var values map[string]any
	if err := json.Unmarshal(d, &values); err != nil {
		return err
	}
	if ss.Values == nil {
		ss.Values = make(map[any]any, len(values))
	}
	for k, v := range values {
		ss.Values[k] = v
	}
	return nil
}
