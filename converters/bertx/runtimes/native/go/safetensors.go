package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"slices"
)

// Tensor holds its elements in row-major order, little-endian; Dtype as PyTorch calls it ("float32").
type Tensor struct {
	Dtype string
	Shape []int64
	Data  []byte
}

// codes are the names of dtypes in a safetensors file, sizes their bytes.
var (
	codes = map[string]string{
		"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
		"int64": "I64", "int32": "I32", "int8": "I8", "uint8": "U8", "bool": "BOOL",
	}
	sizes = map[string]int64{
		"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1,
	}
)

type entry struct {
	Dtype   string   `json:"dtype"`
	Shape   []int64  `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

// readSafetensors reads a header length, a JSON header, then the tensors' bytes.
func readSafetensors(path string) (map[string]Tensor, map[string]string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	if len(content) < 8 || binary.LittleEndian.Uint64(content) > uint64(len(content)-8) {
		return nil, nil, fmt.Errorf("%s is no safetensors file", path)
	}
	begin := 8 + int64(binary.LittleEndian.Uint64(content))
	var header map[string]json.RawMessage
	if err := json.Unmarshal(content[8:begin], &header); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	tensors, metadata := map[string]Tensor{}, map[string]string{}
	for name, raw := range header {
		if name == "__metadata__" {
			if err := json.Unmarshal(raw, &metadata); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", path, err)
			}
			continue
		}
		tensor, err := readTensor(raw, content[begin:])
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		tensors[name] = tensor
	}
	return tensors, metadata, nil
}

func readTensor(raw json.RawMessage, data []byte) (Tensor, error) {
	var found entry
	if err := json.Unmarshal(raw, &found); err != nil {
		return Tensor{}, err
	}
	for name, code := range codes {
		if code != found.Dtype {
			continue
		}
		bytes := sizes[name]
		for _, size := range found.Shape {
			bytes *= size
		}
		from, to := found.Offsets[0], found.Offsets[1]
		if from < 0 || to > int64(len(data)) || to-from != bytes {
			return Tensor{}, fmt.Errorf("its bytes do not fit its shape")
		}
		return Tensor{name, found.Shape, slices.Clone(data[from:to])}, nil
	}
	return Tensor{}, fmt.Errorf("dtype %s is not supported", found.Dtype)
}

func writeSafetensors(path string, tensors map[string]Tensor, metadata map[string]string) error {
	header := map[string]any{"__metadata__": metadata}
	var data []byte
	for name, tensor := range tensors {
		from := int64(len(data))
		data = append(data, tensor.Data...)
		header[name] = entry{codes[tensor.Dtype], tensor.Shape, [2]int64{from, int64(len(data))}}
	}
	text, err := json.Marshal(header)
	if err != nil {
		return err
	}
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	content := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	return os.WriteFile(path, slices.Concat(content, text, data), 0o644)
}
