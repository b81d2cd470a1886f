// What MindSpore's dry-run asks of CANN and does something with the answer. Every other function answers 0 (success).
//
// A dry-run only compiles, so memory is a range of addresses that nobody touches, and a handle is any non-null pointer.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>

namespace {
constexpr size_t kDeviceMemory = size_t{64} << 30;
constexpr size_t kHandleSize = 256;

int Handle(void **out) { return (*out = std::calloc(1, kHandleSize)) == nullptr; }

int Address(void **out, size_t size) {
  static uint64_t next = uint64_t{1} << 44;
  *out = reinterpret_cast<void *>(next);
  next += ((size >> 21) + 1) << 21;
  return 0;
}

int32_t selected_device = 0;
}  // namespace

#define CREATES_A_HANDLE(name) \
  void *name() { return std::calloc(1, kHandleSize); }
#define GIVES_A_HANDLE(name, ...) \
  int name(void **out, ##__VA_ARGS__) { return Handle(out); }

extern "C" {
const char *aclrtGetSocName() { return "Ascend910B2"; }
const char *aclGetRecentErrMsg() { return ""; }

int aclrtGetDeviceCount(uint32_t *count) { return *count = 8, 0; }
int aclrtSetDevice(int32_t device) { return selected_device = device, 0; }
int aclrtGetDevice(int32_t *device) { return *device = selected_device, 0; }
int aclrtDeviceGetBareTgid(int *process) { return *process = 1, 0; }
int aclrtGetRunMode(int *mode) { return *mode = 1, 0; }
int aclrtDeviceGetStreamPriorityRange(int *least, int *greatest) { return *least = 0, *greatest = 7, 0; }

int aclrtGetMemInfo(int, size_t *free, size_t *total) { return *free = *total = kDeviceMemory, 0; }
int aclrtMalloc(void **out, size_t size, int) { return Address(out, size); }
int aclrtMallocAlign32(void **out, size_t size, int) { return Address(out, size); }
int aclrtReserveMemAddress(void **out, size_t size, size_t, void *, uint64_t) { return Address(out, size); }
int aclrtMallocHost(void **out, size_t size) { return (*out = std::malloc(size)) == nullptr; }
int aclrtFreeHost(void *address) { return std::free(address), 0; }

GIVES_A_HANDLE(aclrtMallocPhysical, size_t, const void *, uint64_t)
GIVES_A_HANDLE(aclrtCreateStream)
GIVES_A_HANDLE(aclrtCreateStreamWithConfig, uint32_t, uint32_t)
GIVES_A_HANDLE(aclrtCreateEvent)
GIVES_A_HANDLE(aclrtCreateEventWithFlag, uint32_t)
GIVES_A_HANDLE(aclrtCreateEventExWithFlag, uint32_t)
GIVES_A_HANDLE(aclrtCreateContext, int32_t)
GIVES_A_HANDLE(aclrtGetCurrentContext)

CREATES_A_HANDLE(aclopCreateAttr)
CREATES_A_HANDLE(aclCreateTensorDesc)
CREATES_A_HANDLE(aclCreateDataBuffer)
CREATES_A_HANDLE(aclmdlCreateDesc)
CREATES_A_HANDLE(aclmdlCreateDataset)
CREATES_A_HANDLE(aclmdlCreateExecConfigHandle)
CREATES_A_HANDLE(aclCreateTensor)
CREATES_A_HANDLE(aclCreateTensorList)
CREATES_A_HANDLE(aclCreateScalar)
CREATES_A_HANDLE(aclCreateIntArray)
CREATES_A_HANDLE(aclCreateFloatArray)
CREATES_A_HANDLE(aclCreateBoolArray)
CREATES_A_HANDLE(aclprofCreateConfig)
CREATES_A_HANDLE(aclprofCreateStepInfo)
CREATES_A_HANDLE(aclrtAllocatorCreateDesc)

// ge::StatusFactory::Instance(): the texts of error codes. Callers fill in its first member, a map, by inlined code.
void *_ZN2ge13StatusFactory8InstanceEv() {
  static auto *texts = new std::map<uint32_t, std::string>();
  return texts;
}
}
