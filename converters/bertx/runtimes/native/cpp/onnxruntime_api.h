// The part of ONNX Runtime's C API that is used here. Its headers come in no package, so the functions are declared by
// their slot in OrtApi, a table that is only ever appended to: a slot never moves, and newer libraries serve older ones.
#pragma once
#include <cstddef>
#include <cstdint>

struct OrtApi;
struct OrtAllocator;
struct OrtEnv;
struct OrtMemoryInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// The table's version whose slots these are; a library without it answers null.
constexpr uint32_t kOrtApiVersion = 17;

constexpr int kOrtLogError = 3, kOrtArenaAllocator = 1, kOrtMemTypeDefault = 0;

// X(slot, result, name, parameters...)
#define ORT_FUNCTIONS(X)                                                                                             \
  X(2, const char*, GetErrorMessage, const OrtStatus*)                                                               \
  X(3, OrtStatus*, CreateEnv, int level, const char* id, OrtEnv**)                                                   \
  X(7, OrtStatus*, CreateSession, const OrtEnv*, const char* path, const OrtSessionOptions*, OrtSession**)           \
  X(9, OrtStatus*, Run, OrtSession*, const OrtRunOptions*, const char* const* input_names, const OrtValue* const*,   \
    size_t inputs, const char* const* output_names, size_t outputs, OrtValue**)                                      \
  X(10, OrtStatus*, CreateSessionOptions, OrtSessionOptions**)                                                       \
  X(24, OrtStatus*, SetIntraOpNumThreads, OrtSessionOptions*, int threads)                                           \
  X(30, OrtStatus*, SessionGetInputCount, const OrtSession*, size_t*)                                                \
  X(31, OrtStatus*, SessionGetOutputCount, const OrtSession*, size_t*)                                               \
  X(33, OrtStatus*, SessionGetInputTypeInfo, const OrtSession*, size_t, OrtTypeInfo**)                               \
  X(34, OrtStatus*, SessionGetOutputTypeInfo, const OrtSession*, size_t, OrtTypeInfo**)                              \
  X(36, OrtStatus*, SessionGetInputName, const OrtSession*, size_t, OrtAllocator*, char**)                           \
  X(37, OrtStatus*, SessionGetOutputName, const OrtSession*, size_t, OrtAllocator*, char**)                          \
  X(49, OrtStatus*, CreateTensorWithDataAsOrtValue, const OrtMemoryInfo*, void* data, size_t bytes,                  \
    const int64_t* shape, size_t rank, int type, OrtValue**)                                                         \
  X(51, OrtStatus*, GetTensorMutableData, OrtValue*, void**)                                                         \
  X(55, OrtStatus*, CastTypeInfoToTensorInfo, const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**)                 \
  X(60, OrtStatus*, GetTensorElementType, const OrtTensorTypeAndShapeInfo*, int*)                                    \
  X(61, OrtStatus*, GetDimensionsCount, const OrtTensorTypeAndShapeInfo*, size_t*)                                   \
  X(62, OrtStatus*, GetDimensions, const OrtTensorTypeAndShapeInfo*, int64_t*, size_t)                               \
  X(65, OrtStatus*, GetTensorTypeAndShape, const OrtValue*, OrtTensorTypeAndShapeInfo**)                             \
  X(69, OrtStatus*, CreateCpuMemoryInfo, int allocator, int memory, OrtMemoryInfo**)                                 \
  X(76, OrtStatus*, AllocatorFree, OrtAllocator*, void*)                                                             \
  X(78, OrtStatus*, GetAllocatorWithDefaultOptions, OrtAllocator**)                                                  \
  X(92, void, ReleaseEnv, OrtEnv*)                                                                                   \
  X(93, void, ReleaseStatus, OrtStatus*)                                                                             \
  X(94, void, ReleaseMemoryInfo, OrtMemoryInfo*)                                                                     \
  X(95, void, ReleaseSession, OrtSession*)                                                                           \
  X(96, void, ReleaseValue, OrtValue*)                                                                               \
  X(98, void, ReleaseTypeInfo, OrtTypeInfo*)                                                                         \
  X(99, void, ReleaseTensorTypeAndShapeInfo, OrtTensorTypeAndShapeInfo*)                                             \
  X(100, void, ReleaseSessionOptions, OrtSessionOptions*)

// The functions, typed, read out of the library's table.
struct Ort {
#define ORT_DECLARE(slot, result, name, ...) result (*name)(__VA_ARGS__);
  ORT_FUNCTIONS(ORT_DECLARE)
#undef ORT_DECLARE

  explicit Ort(const OrtApi* table) {
    const auto* slots = reinterpret_cast<void* const*>(table);
#define ORT_READ(slot, result, name, ...) name = reinterpret_cast<result (*)(__VA_ARGS__)>(slots[slot]);
    ORT_FUNCTIONS(ORT_READ)
#undef ORT_READ
  }
};
