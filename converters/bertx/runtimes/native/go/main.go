// An ONNX file in ONNX Runtime, whose library is opened when the program starts: inputs by name, all outputs.
//
//	runner -library libonnxruntime.so.1 -artifact model.onnx ...
package main

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"slices"

	ort "github.com/yalue/onnxruntime_go"
)

var types = map[ort.TensorElementDataType]string{
	ort.TensorElementDataTypeFloat: "float32", ort.TensorElementDataTypeDouble: "float64",
	ort.TensorElementDataTypeFloat16: "float16", ort.TensorElementDataTypeBFloat16: "bfloat16",
	ort.TensorElementDataTypeInt64: "int64", ort.TensorElementDataTypeInt32: "int32",
	ort.TensorElementDataTypeInt8: "int8", ort.TensorElementDataTypeUint8: "uint8",
	ort.TensorElementDataTypeBool: "bool",
}

type onnxRuntime struct {
	library         *string
	session         *ort.DynamicAdvancedSession
	inputs, outputs []ort.InputOutputInfo
	given           []string // what the cases call the inputs
	dtype           string
}

func (r *onnxRuntime) Open(task Task) error {
	if task.Device != "cpu" {
		return fmt.Errorf("%w: this runner knows the CPU only", errDevice)
	}
	ort.SetSharedLibraryPath(*r.library)
	if err := ort.InitializeEnvironment(ort.WithLogLevelError()); err != nil {
		return err
	}
	var err error
	if r.inputs, r.outputs, err = ort.GetInputOutputInfo(task.Artifact); err != nil {
		return err
	}
	for _, spec := range task.Outputs {
		for _, output := range r.outputs {
			if output.Name == spec.Name && types[output.DataType] != spec.Dtype {
				return fmt.Errorf("%s is %s where %s is claimed", spec.Name, types[output.DataType], spec.Dtype)
			}
		}
	}
	if r.given, err = bound(names(r.inputs), task.Inputs); err != nil {
		return err
	}
	r.dtype = task.Dtype
	options, err := ort.NewSessionOptions()
	if err != nil {
		return err
	}
	defer options.Destroy()
	if err := options.SetIntraOpNumThreads(task.Threads); err != nil {
		return err
	}
	r.session, err = ort.NewDynamicAdvancedSession(task.Artifact, names(r.inputs), names(r.outputs), options)
	return err
}

func (r *onnxRuntime) Run(inputs map[string]Tensor) (map[string]Tensor, error) {
	given := make([]ort.Value, len(r.inputs))
	for i, input := range r.inputs {
		tensor := inputs[r.given[i]]
		if tensor.Dtype != types[input.DataType] {
			return nil, fmt.Errorf("input %s is %s, the file wants %s", input.Name, tensor.Dtype, types[input.DataType])
		}
		value, err := ort.NewCustomDataTensor(tensor.Shape, tensor.Data, input.DataType)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", input.Name, err)
		}
		defer value.Destroy()
		given[i] = value
	}
	made := make([]ort.Value, len(r.outputs)) // nil: ONNX Runtime allocates them
	if err := r.session.Run(given, made); err != nil {
		return nil, err
	}
	outputs := map[string]Tensor{}
	for i, output := range r.outputs {
		defer made[i].Destroy()
		data, err := elements(made[i])
		if err != nil {
			return nil, fmt.Errorf("output %s: %w", output.Name, err)
		}
		outputs[output.Name] = Tensor{types[output.DataType], made[i].GetShape(), data}
	}
	return outputs, nil
}

func (r *onnxRuntime) Facts() map[string]string {
	return map[string]string{
		"version": ort.GetVersion(), "provider": "CPUExecutionProvider", "device": "cpu", "dtype": r.dtype,
	}
}

// elements are a tensor's bytes. onnxruntime_go gives no float16 that it has allocated itself.
func elements(value ort.Value) ([]byte, error) {
	var typed any
	switch tensor := value.(type) {
	case *ort.Tensor[float32]:
		typed = tensor.GetData()
	case *ort.Tensor[float64]:
		typed = tensor.GetData()
	case *ort.Tensor[int64]:
		typed = tensor.GetData()
	case *ort.Tensor[int32]:
		typed = tensor.GetData()
	case *ort.Tensor[bool]:
		typed = tensor.GetData()
	default:
		return nil, fmt.Errorf("a value of type %T", value)
	}
	var data bytes.Buffer
	err := binary.Write(&data, binary.LittleEndian, typed)
	return data.Bytes(), err
}

// bound says what the cases call the file's inputs: the same, or where it has names of its own, by their order.
func bound(theirs []string, specs []Spec) ([]string, error) {
	var ours []string
	for _, spec := range specs {
		ours = append(ours, spec.Name)
	}
	for _, name := range theirs {
		if slices.Contains(ours, name) {
			continue
		}
		if len(theirs) != len(ours) {
			return nil, fmt.Errorf("the file takes %v, the cases have %v", theirs, ours)
		}
		return ours, nil
	}
	return theirs, nil
}

func names(infos []ort.InputOutputInfo) []string {
	var found []string
	for _, info := range infos {
		found = append(found, info.Name)
	}
	return found
}

func main() {
	runner("onnxruntime-go", &onnxRuntime{library: flag.String("library", "libonnxruntime.so.1", "ONNX Runtime")})
}
