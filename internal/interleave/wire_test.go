//go:build go1.25

package interleave

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// Policies of a memcache Set.
const (
	policySet = 1
	policyAdd = 2
	policyCAS = 4
)

// An item is one of a memcache Get's answer or of a Set's request.
type item struct {
	key, value []byte
	flags      uint32
	cas        uint64
	policy     uint64 // Set
	expiration uint32 // Set: seconds
}

func fields(b []byte, f func(num protowire.Number, typ protowire.Type, value []byte, number uint64)) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			panic("interleave: message cannot be decoded")
		}
		b = b[n:]
		var value []byte
		var number uint64
		switch typ {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(b)
			number = uint64(v)
		case protowire.Fixed64Type:
			number, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		case protowire.StartGroupType:
			value, n = protowire.ConsumeGroup(num, b)
		}
		if n < 0 {
			panic("interleave: message cannot be decoded")
		}
		b = b[n:]
		f(num, typ, value, number)
	}
}

// gotItem is the item in the answer of a memcache Get; nil: none.
func gotItem(response []byte) *item {
	var it *item
	fields(response, func(num protowire.Number, _ protowire.Type, group []byte, _ uint64) {
		if num != 1 {
			return
		}
		it = &item{}
		fields(group, func(num protowire.Number, _ protowire.Type, value []byte, number uint64) {
			switch num {
			case 2:
				it.key = value
			case 3:
				it.value = value
			case 4:
				it.flags = uint32(number)
			case 5:
				it.cas = number
			}
		})
	})
	return it
}

// setItem is the item in the request of a memcache Set.
func setItem(request []byte) *item {
	it := &item{policy: policySet}
	fields(request, func(num protowire.Number, _ protowire.Type, group []byte, _ uint64) {
		if num != 1 {
			return
		}
		fields(group, func(num protowire.Number, _ protowire.Type, value []byte, number uint64) {
			switch num {
			case 2:
				it.key = value
			case 3:
				it.value = value
			case 4:
				it.flags = uint32(number)
			case 5:
				it.policy = number
			case 6:
				it.expiration = uint32(number)
			case 8:
				it.cas = number
			}
		})
	})
	return it
}

// setRequest is the request of a memcache Set.
func setRequest(it *item) []byte {
	b := protowire.AppendTag(nil, 1, protowire.StartGroupType)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendBytes(b, it.key)
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	b = protowire.AppendBytes(b, it.value)
	b = protowire.AppendTag(b, 4, protowire.Fixed32Type)
	b = protowire.AppendFixed32(b, it.flags)
	b = protowire.AppendTag(b, 5, protowire.VarintType)
	b = protowire.AppendVarint(b, it.policy)
	b = protowire.AppendTag(b, 6, protowire.Fixed32Type)
	b = protowire.AppendFixed32(b, it.expiration)
	if it.cas != 0 {
		b = protowire.AppendTag(b, 8, protowire.Fixed64Type)
		b = protowire.AppendFixed64(b, it.cas)
	}
	return protowire.AppendTag(b, 1, protowire.EndGroupType)
}

// peekRequest asks memcache for an item and its CAS id, without using it.
func peekRequest(key string) []byte {
	b := protowire.AppendTag(nil, 1, protowire.BytesType)
	b = protowire.AppendString(b, key)
	b = protowire.AppendTag(b, 4, protowire.VarintType)
	b = protowire.AppendVarint(b, 1)
	b = protowire.AppendTag(b, 6, protowire.VarintType)
	return protowire.AppendVarint(b, 1)
}

// withTransaction puts a transaction, as BeginTransaction answered it, into the
// request of a datastore_v3 Get or Put. The client library does so only below
// the function that the calls go through here. An encoded message may be
// continued with further fields.
func withTransaction(request, transaction []byte) []byte {
	b := protowire.AppendTag(request[:len(request):len(request)], 2, protowire.BytesType)
	return protowire.AppendBytes(b, transaction)
}

// putEntity is what a datastore_v3 Put stores: its key, encoded, and the value
// of a property.
func putEntity(request []byte, property string) (key, of []byte) {
	fields(request, func(num protowire.Number, _ protowire.Type, entity []byte, _ uint64) {
		if num != 1 {
			return
		}
		fields(entity, func(num protowire.Number, _ protowire.Type, value []byte, _ uint64) {
			switch num {
			case 13:
				key = value
			case 14, 15:
				var name string
				var text []byte
				fields(value, func(num protowire.Number, _ protowire.Type, value []byte, _ uint64) {
					switch num {
					case 3:
						name = string(value)
					case 5:
						fields(value, func(num protowire.Number, _ protowire.Type, value []byte, _ uint64) {
							if num == 3 {
								text = value
							}
						})
					}
				})
				if name == property {
					of = text
				}
			}
		})
	})
	return key, of
}

// deleteRequest is the request of a datastore_v3 Delete.
func deleteRequest(key []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, 6, protowire.BytesType), key)
}
