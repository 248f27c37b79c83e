// ImageService of the CRI: checks, translates, hands to the core.
#pragma once

#include "api.grpc.pb.h"
#include "daemon/core/core.hpp"
#include "daemon/cri/calls.hpp"

namespace userpod::cri {

namespace v1 = ::runtime::v1;

class ImageService final : public v1::ImageService::CallbackService {
 public:
  ImageService(core::Core& core, std::shared_ptr<CallRegistry> calls) : core_(core), calls_(std::move(calls)) {}

  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Reactor* ListImages(Context*, const v1::ListImagesRequest*, v1::ListImagesResponse*) override;
  grpc::ServerWriteReactor<v1::StreamImagesResponse>* StreamImages(Context*, const v1::StreamImagesRequest*) override;
  Reactor* ImageStatus(Context*, const v1::ImageStatusRequest*, v1::ImageStatusResponse*) override;
  Reactor* PullImage(Context*, const v1::PullImageRequest*, v1::PullImageResponse*) override;
  Reactor* RemoveImage(Context*, const v1::RemoveImageRequest*, v1::RemoveImageResponse*) override;
  Reactor* ImageFsInfo(Context*, const v1::ImageFsInfoRequest*, v1::ImageFsInfoResponse*) override;

 private:
  // A filter looks one image up; without one all are selected.
  std::vector<std::shared_ptr<const ImageRecord>> selectImages(const v1::ImageFilter& filter) const;

  core::Core& core_;
  std::shared_ptr<CallRegistry> calls_;
};

}  // namespace userpod::cri
