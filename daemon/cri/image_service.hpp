// ImageService of the CRI: checks, translates, hands to the core.
#pragma once

#include <mutex>

#include "api.grpc.pb.h"
#include "daemon/core/core.hpp"
#include "daemon/cri/calls.hpp"

namespace userpod::cri {

namespace v1 = ::runtime::v1;

// All calls by callbacks, ListImages with messages as bytes.
template <typename Base>
using ImageCalls = v1::ImageService::WithRawCallbackMethod_ListImages<v1::ImageService::WithCallbackMethod_StreamImages<
    v1::ImageService::WithCallbackMethod_ImageStatus<v1::ImageService::WithCallbackMethod_PullImage<
        v1::ImageService::WithCallbackMethod_RemoveImage<v1::ImageService::WithCallbackMethod_ImageFsInfo<Base>>>>>>;

class ImageService final : public ImageCalls<v1::ImageService::Service> {
 public:
  ImageService(core::Core& core, std::shared_ptr<CallRegistry> calls) : core_(core), calls_(std::move(calls)) {}

  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Reactor* ListImages(Context*, const grpc::ByteBuffer*, grpc::ByteBuffer*) override;
  grpc::ServerWriteReactor<v1::StreamImagesResponse>* StreamImages(Context*, const v1::StreamImagesRequest*) override;
  Reactor* ImageStatus(Context*, const v1::ImageStatusRequest*, v1::ImageStatusResponse*) override;
  Reactor* PullImage(Context*, const v1::PullImageRequest*, v1::PullImageResponse*) override;
  Reactor* RemoveImage(Context*, const v1::RemoveImageRequest*, v1::RemoveImageResponse*) override;
  Reactor* ImageFsInfo(Context*, const v1::ImageFsInfoRequest*, v1::ImageFsInfoResponse*) override;

 private:
  // A filter looks one image up; without one all are selected.
  std::vector<std::shared_ptr<const ImageRecord>> selectImages(const v1::ImageFilter& filter) const;
  // The answer that has all of them, made once for each list: of ten thousand images it takes as long as all else that
  // a call costs, and every client asks twice a minute.
  grpc::Slice listOf(const std::shared_ptr<const core::ImageList>& images);

  core::Core& core_;
  std::shared_ptr<CallRegistry> calls_;
  std::mutex listMutex_;
  std::shared_ptr<const core::ImageList> listed_;  // guarded by listMutex_, as is
  grpc::Slice list_;                               // its answer
};

}  // namespace userpod::cri
