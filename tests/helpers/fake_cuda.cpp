// Enough of a CUDA runtime for autograd to run over fake tensors: it asks for devices and streams.
// One thread has one current device, as with the real one; there is nothing behind it.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

using c10::Device, c10::DeviceIndex, c10::DeviceType, c10::Stream;

static constexpr DeviceIndex DEVICES = 2;
static thread_local DeviceIndex current = 0;

extern "C" int exchange_device(int index) {
    int before = current;
    if (index >= 0) current = static_cast<DeviceIndex>(index);
    return before;
}

struct Guard : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
    DeviceIndex deviceCount() const noexcept override { return DEVICES; }
    Device getDevice() const override { return {DeviceType::CUDA, current}; }
    void setDevice(Device to) const override { exchange_device(to.index()); }
    void uncheckedSetDevice(Device to) const noexcept override { exchange_device(to.index()); }
    Device exchangeDevice(Device to) const override {
        return {DeviceType::CUDA, static_cast<DeviceIndex>(exchange_device(to.index()))};
    }
    Stream getStream(Device of) const noexcept override { return Stream(Stream::DEFAULT, of); }
    Stream exchangeStream(Stream to) const noexcept override { return to; }
    void record(void **, const Stream &, DeviceIndex, c10::EventFlag) const override {}
    void block(void *, const Stream &) const override {}
};

// The registry knows the hooks by this name.
struct CUDAHooks final : at::CUDAHooksInterface {
    explicit CUDAHooks(at::CUDAHooksArgs) {}
    bool hasCUDA() const override { return true; }
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasPrimaryContext(DeviceIndex) const override { return true; }
    DeviceIndex deviceCount() const override { return DEVICES; }
    void init() const override {}
};

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}
namespace at {
REGISTER_CUDA_HOOKS(CUDAHooks)
}
