-- A small ledger as version 0.1.0 (revision 0002) left it: all its rows, as dumped, but for '-0' in quotes, which the dump
-- writes as a number that loses its sign. Two models, a rollback, a conflict, an outcome, a closed period, a publication,
-- one that was reverted, a run left planned, counters lost.
INSERT INTO public.adjustments VALUES
	('6b9d0e59-bc23-4826-a469-32e98414a956', 0, '018d5cd0-df28-7924-9135-16a5993435ec', 'adv-1', 'camp-1', 'EUR', 'phone/in', NULL, 'undecided', 'valid', 1000, 0, '2024-01', '2024-01'),
	('6b9d0e59-bc23-4826-a469-32e98414a956', 1, '018d61f7-23b8-7568-8a52-d55a02ec4aea', 'adv-1', 'camp-1', 'EUR', 'phone/in', NULL, 'valid', 'invalid', -1000, 0, '2024-02', '2024-02'),
	('6b9d0e59-bc23-4826-a469-32e98414a956', 2, '018d61f7-27a0-7005-b02d-43fa06e7d058', 'adv-1', 'camp-1', 'EUR', 'phone/in', NULL, 'valid', 'invalid', -1000, 0, '2024-02', '2024-02'),
	('ed23adc4-63be-48ee-a2d1-900789ec01bd', 0, '018d5cd0-bc00-7f55-b0f5-a1810b7af78c', 'adv-1', 'camp-1', 'EUR', 'phone/in', 15, 'valid', 'invalid', -1000, 0, '2024-01', '2026-11'),
	('ed23adc4-63be-48ee-a2d1-900789ec01bd', 1, '018d5cd0-df28-7924-9135-16a5993435ec', 'adv-1', 'camp-1', 'EUR', 'phone/in', 15, 'valid', 'undecided', -1000, 0, '2024-01', '2026-11'),
	('ed23adc4-63be-48ee-a2d1-900789ec01bd', 2, '018d61f7-23b8-7568-8a52-d55a02ec4aea', 'adv-1', 'camp-1', 'EUR', 'phone/in', 15, 'invalid', 'valid', 1000, 0, '2024-02', '2024-02'),
	('ed23adc4-63be-48ee-a2d1-900789ec01bd', 3, '018d61f7-27a0-7005-b02d-43fa06e7d058', 'adv-1', 'camp-1', 'EUR', 'phone/in', 15, 'invalid', 'valid', 1000, 0, '2024-02', '2024-02');
INSERT INTO public.artefacts VALUES
	('\xf379ccb92b9116442dc65bdc35648a85d3786b34779db7f704a901fa07b00cb6', '\x737461626c65'),
	('\x2f05d4b689d270cafb02285f35f44866f7dc8a2d368a3f9d1124373eeab31fb1', '\x626164'),
	('\x9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c', '\x77656967687473');
INSERT INTO public.authority VALUES
	('[1,)', NULL, '[1,18)'),
	('[1,5)', NULL, '[18,24)'),
	('[5,13)', 15, '[18,24)'),
	('[13,)', NULL, '[18,24)'),
	('[1,20)', 21, '[24,25)'),
	('[20,)', NULL, '[24,25)'),
	('[1,5)', NULL, '[25,)'),
	('[5,13)', 15, '[25,)'),
	('[13,)', NULL, '[25,)');
INSERT INTO public.billing_periods VALUES
	('2024-01', 19);
INSERT INTO public.calibrations VALUES
	(1, 1, '{"*":1.0}', 3),
	(2, 2, '{"*":1.0}', 7),
	(3, 3, '{"*":1.0}', 14),
	(4, 3, '{"*":1.0}', 20);
INSERT INTO public.clicks VALUES
	('018d5cd0-bc00-7f55-b0f5-a1810b7af78c', 5, 'test', '', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', 'pixel', 'phone', 'adv-1', 'camp-1', 1000, 'EUR', true, 'phone/in', '\x5cc52e783bbaeebabc5d20235f8e127737f06dee70dd0512495b9dcb651bdcaf', '\x01000000', 1, 1, 0),
	('018d5cd0-bfe8-7d26-a215-4e6d76b2b2b9', 5, 'test', '', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', 'pixel', 'phone', 'adv-1', 'camp-1', 1000, 'EUR', true, 'phone/in', '\x35e45346abf57f9764fa6b3d44a6f5de15e1118d67192d5538ba41dbc8bb28af', '\x01000000', 1, 1, 0),
	('018d5cd0-c3d0-7d04-a475-4498e06db5a1', 5, 'test', '', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', 'pixel', 'phone', 'adv-1', 'camp-1', 1000, 'EUR', true, 'phone/in', '\x3d8fc96be12a7ca9a0248296506e701af239cc628733c900c7310e2e4af53b75', '\x01000000', 1, 1, 0),
	('018d5cd0-df28-7924-9135-16a5993435ec', 9, 'test', '', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', 'pixel', 'phone', 'adv-1', 'camp-1', 1000, 'EUR', true, 'phone/in', '\xb861dedab16a71a6e707b0b3b152c897a3259796157e09e857395422662aad0f', '\x01000000', 1, 1, 0);
INSERT INTO public.clicks VALUES
	('018d61f7-23b8-7568-8a52-d55a02ec4aea', 9, 'test', '', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', 'pixel', 'phone', 'adv-1', 'camp-1', 1000, 'EUR', NULL, 'phone/in', '\xb9bdf414ef20f1d07dfe1e9a82adfd10d0c936743c0b627d6b7078a302abb4c2', '\x01000000', 1, 1, 0),
	('018d61f7-27a0-7005-b02d-43fa06e7d058', 9, 'test', '', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', 'pixel', 'phone', 'adv-1', 'camp-1', 1000, 'EUR', NULL, 'phone/in', '\xd91caadfac6c4f2d846a760be6f41b3bd5ebd5d1f62f526b8b363ec8c498ac3e', '\x01000000', 1, 1, 0),
	('018d61f7-2b88-7dee-8dd6-0ff8d0ba9900', 9, 'test', '', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', 'pixel', 'phone', 'adv-1', 'camp-1', 1000, 'EUR', NULL, 'phone/in', '\xd048a709ea6d7e68f0f33f87831670f23aa1e521cf9098f798cd9f5c7dbe1ebb', '\x01000000', 1, 1, 0);
INSERT INTO public.clicks VALUES
	('018df229-7620-72a2-a4ee-63bc826a6df7', 28, 'test', '', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', '64d43954-25f8-a0e3-5694-bf5f56f64201', 'pixel', 'phone', 'adv-1', 'camp-1', 1000, 'EUR', true, 'phone/in', '\xb85d474799abe2aeeaa65514bf704220d6f50d4e5e6367ccfd4e079a37b175cc', '\x01000000', 1, 2, 0);
INSERT INTO public.comparison_totals VALUES
	('6b9d0e59-bc23-4826-a469-32e98414a956', 'adv-1', 'phone/in', 'EUR', 7, 1, 2, 0, 0, 6000, -1000, 0, 5000, 3000),
	('ed23adc4-63be-48ee-a2d1-900789ec01bd', 'adv-1', 'phone/in', 'EUR', 7, 2, 1, 1, 0, 5000, 0, 0, 5000, 4000);
INSERT INTO public.comparisons VALUES
	(17, 15, '6b9d0e59-bc23-4826-a469-32e98414a956', 16, '\x500bda977f7987ab97cb39250e2474515a917fee16648c53651f54464a857ee5', '{"adjustments_micros":-1000,"billed_after_micros":5000,"billed_before_micros":6000,"carried":0,"clicks":7,"compared_at_position":16,"content_digest":"aa69417d62559e6bc5c66682ac7075828832ccbf530c3841801291c5aba288f2","flips":3,"gross_micros":3000,"positions":[5,13],"run_id":15,"to_invalid":2,"to_undecided":0,"to_valid":1,"totals_digest":"38b5f3128c942993ec436b2b06097491f641bd090805dd422a81268900d4aaaa","write_off_micros":0}'),
	(23, 21, 'ed23adc4-63be-48ee-a2d1-900789ec01bd', 22, '\xd4493b9b91e7a1c50d96e292d24dc860e0b8770ddd8c90c2153747fa01254deb', '{"adjustments_micros":0,"billed_after_micros":5000,"billed_before_micros":5000,"carried":0,"clicks":7,"compared_at_position":22,"content_digest":"5b9a1a84ad8b72ed371c468b4b8d3ab4dc449efafa4866e4feee7dc5b524e280","flips":4,"gross_micros":4000,"positions":[1,20],"run_id":21,"to_invalid":1,"to_undecided":1,"to_valid":2,"totals_digest":"54fe783efa38edd7b52542695e84e813c21f5675681b500a1204acac576f9687","write_off_micros":0}');
INSERT INTO public.conflicts VALUES
	('018d5cd0-bc00-7f55-b0f5-a1810b7af78c', '\x2331e35ca7ae3629eb1f94a05763e03d2bb5a0398f8e312f329e493de7f1fab5', 10);
INSERT INTO public.counter_epochs VALUES
	(1, 1),
	(2, 27);
INSERT INTO public.decisions VALUES
	('018d5cd0-bc00-7f55-b0f5-a1810b7af78c', 5, 0, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 1, 0, 0, 0, 1, 'valid', '', false),
	('018d5cd0-bfe8-7d26-a215-4e6d76b2b2b9', 5, 1, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 1, 0, 0, 0, 1, 'valid', '', false),
	('018d5cd0-c3d0-7d04-a475-4498e06db5a1', 5, 2, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 1, 0, 0, 0, 1, 'valid', '', false),
	('018d5cd0-df28-7924-9135-16a5993435ec', 9, 0, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 2, 0, 0, 'NaN', 1, 'undecided', 'é unavailable', false);
INSERT INTO public.decisions VALUES
	('018d61f7-23b8-7568-8a52-d55a02ec4aea', 9, 1, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 2, 0, 0, '-0', 1, 'valid', '', false),
	('018d61f7-27a0-7005-b02d-43fa06e7d058', 9, 2, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 2, 0, 0, '-0', 1, 'valid', '', false),
	('018d61f7-2b88-7dee-8dd6-0ff8d0ba9900', 9, 3, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 2, 0, 0, '-0', 1, 'valid', '', false);
INSERT INTO public.decisions VALUES
	('018df229-7620-72a2-a4ee-63bc826a6df7', 28, 0, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 3, 0, 0, 0, 1, 'valid', '', false);
INSERT INTO public.delayed_decisions VALUES
	('018d5cd0-bc00-7f55-b0f5-a1810b7af78c', 5, 0, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 1, 3, 3, 0, 1, 'valid', 'replayed', false, 15),
	('018d5cd0-bfe8-7d26-a215-4e6d76b2b2b9', 5, 1, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 1, 3, 3, 0, 1, 'valid', 'replayed', false, 15),
	('018d5cd0-c3d0-7d04-a475-4498e06db5a1', 5, 2, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 1, 3, 3, 0, 1, 'valid', 'replayed', false, 15),
	('018d5cd0-df28-7924-9135-16a5993435ec', 9, 0, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 2, 3, 3, 'NaN', 1, 'valid', 'replayed', false, 15),
	('018d5cd0-bc00-7f55-b0f5-a1810b7af78c', 5, 0, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 1, 3, 4, 0, 1, 'invalid', 'replayed', false, 21),
	('018d5cd0-bfe8-7d26-a215-4e6d76b2b2b9', 5, 1, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 1, 3, 4, 0, 1, 'valid', 'replayed', false, 21),
	('018d5cd0-c3d0-7d04-a475-4498e06db5a1', 5, 2, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 1, 3, 4, 0, 1, 'valid', 'replayed', false, 21),
	('018d5cd0-df28-7924-9135-16a5993435ec', 9, 0, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 2, 3, 4, 'NaN', 1, 'undecided', 'replayed', false, 21);
INSERT INTO public.delayed_decisions VALUES
	('018d61f7-23b8-7568-8a52-d55a02ec4aea', 9, 1, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 2, 3, 3, '-0', 1, 'invalid', 'replayed', false, 15),
	('018d61f7-27a0-7005-b02d-43fa06e7d058', 9, 2, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 2, 3, 3, '-0', 1, 'invalid', 'replayed', false, 15),
	('018d61f7-2b88-7dee-8dd6-0ff8d0ba9900', 9, 3, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 2, 3, 3, '-0', 1, 'valid', 'replayed', false, 15),
	('018d61f7-23b8-7568-8a52-d55a02ec4aea', 9, 1, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 2, 3, 4, '-0', 1, 'valid', 'replayed', false, 21),
	('018d61f7-27a0-7005-b02d-43fa06e7d058', 9, 2, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 2, 3, 4, '-0', 1, 'valid', 'replayed', false, 21),
	('018d61f7-2b88-7dee-8dd6-0ff8d0ba9900', 9, 3, 'adv-1', 'camp-1', 1000, 'EUR', 'phone/in', 2, 3, 4, '-0', 1, 'valid', 'replayed', false, 21);
INSERT INTO public.deployments VALUES
	(0, '{"routes":[],"shadow":null}', 1, 4, NULL),
	(1, '{"routes":[{"calibration":1,"model":1,"share":1.0,"slice":"*"}],"shadow":null}', 4, 8, NULL),
	(2, '{"routes":[{"calibration":2,"model":2,"share":1.0,"slice":"*"}],"shadow":{"calibration":1,"model":1}}', 8, 12, 12),
	(3, '{"routes":[{"calibration":1,"model":1,"share":1.0,"slice":"*"}]}', 12, NULL, NULL);
INSERT INTO public.known_customers_upto VALUES
	(true, 0);
INSERT INTO public.leaves VALUES
	(5, '\xbd85ab8c95048451375ed801e1b5dbeac07435b28eedd00e97ea3853afde9503b3098e9969bfddbfb915e68fe1275b1318cca62d8355e29e4bd0acd68204d760ef136cc1a56e10417d15a4b5e3bfd8f7aced94a5c3148cdfc37ae1253c239636'),
	(9, '\x48b5e777242091a18bf10b046a7faaeab9b122389afcfabba57218e3720c579eed4e6f19791125a9bcb0232c86a707e39fb21aee632154b68cfaf3a3ff502b5a14ac83f34161e4aa85b3e0c676f91b4c3e16b08dffac9c1fe211166b1baffc0a0d0b32301bf776dbd25e580ac17206f693a1e8db0c6a7856903042fd33435d74'),
	(11, '\x2ab6678f2d328bdc6bdf58fee16f39c2eee27d6d614d2bf9c05cdb1d459945c3'),
	(28, '\xc2422b4a105813a2478f8555cccf4d58ca2bd38050ad03779da59583d5129efc');
INSERT INTO public.log VALUES
	(1, 'ledger_created', '2026-11-22 20:16:44.593+00', 'migration', 'a new ledger', '{"counter_epoch":1,"deployment_epoch":0,"ledger_id":"97ead706-7fa9-473c-8c7c-b6a3956874d9"}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x6bdcd9da3cc03d1234a336608a5bc160328cba64291d813a392b67a3c7910f39'),
	(2, 'model_registered', '2026-11-22 20:16:44.649+00', 'tests', '', '{"digest":"f379ccb92b9116442dc65bdc35648a85d3786b34779db7f704a901fa07b00cb6","kind":"velocity","metadata":{},"model_version":1}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x075ff59958e46bda6c5ef437048f11982f3907e2656aedc9729b1a88e57af84c'),
	(3, 'calibration_set', '2026-11-22 20:16:44.666+00', 'tests', '', '{"calibration_version":1,"metadata":{},"model_version":1,"thresholds":{"*":1.0}}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\xae3bb273cf7c1eb5228557368f140cb01c3b7194a66049642cecba708cc09717'),
	(4, 'deployment_changed', '2026-11-22 20:16:44.681+00', '0.1.0', '', '{"epoch":1,"revoked_epochs":[],"routing":{"routes":[{"calibration":1,"model":1,"share":1.0,"slice":"*"}],"shadow":null}}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x3ca0377580e9d43ae5850b78ca558323e80717c8f41cd1b86d20d04be2e84eda'),
	(5, 'clicks_decided', '2026-11-22 20:16:44.744+00', '0.1.0', '', '{}', 3, '\x4579ed04914e6dbabe03fbee8cc5b6dc3f019cedaeedcac51048c75bb3ecdf84', '\xd15e2f2021843e78a8a77a8a3f83fcd9b67790d73f20e5ca26a6aed2fabbd0f9'),
	(6, 'model_registered', '2026-11-22 20:16:44.76+00', 'tests', '', '{"digest":"2f05d4b689d270cafb02285f35f44866f7dc8a2d368a3f9d1124373eeab31fb1","kind":"velocity","metadata":{},"model_version":2}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x2b3589e4485011dc83f56607b1308c8621d553ea181b432d897f0f0f2bb6ec78'),
	(7, 'calibration_set', '2026-11-22 20:16:44.765+00', 'tests', '', '{"calibration_version":2,"metadata":{},"model_version":2,"thresholds":{"*":1.0}}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\xee84b769b4420aab8b015214e655fd13a6ae8e99156e2852113f1cecd7a33986'),
	(8, 'deployment_changed', '2026-11-22 20:16:44.78+00', '0.1.0', 'a new model', '{"epoch":2,"revoked_epochs":[],"routing":{"routes":[{"calibration":2,"model":2,"share":1.0,"slice":"*"}],"shadow":{"calibration":1,"model":1}}}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x0d2fee23f8d51af1333ef07c0c8276d4959575531c0a6c36c1117dd9b711b27e'),
	(9, 'clicks_decided', '2026-11-22 20:16:44.829+00', '0.1.0', '', '{}', 4, '\xe43e305aec99cba36642ac877f297e54f4e85ecb1f5df59a49923cbf81bb51fd', '\xa463762fb44fa570013feefeb3c8176d52bdc7edd06c7a455c9490448344a297'),
	(10, 'conflicts_recorded', '2026-11-22 20:16:44.852+00', '0.1.0', 'same click id, other content', '{"conflicts":[{"click_id":"018d5cd0-bc00-7f55-b0f5-a1810b7af78c","intake_digest":"2331e35ca7ae3629eb1f94a05763e03d2bb5a0398f8e312f329e493de7f1fab5"}]}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x57295620543464d5ce8e452fc32535dcbb42380a7c0b136f1d34495284c50f4b'),
	(11, 'outcomes_recorded', '2026-11-22 20:16:44.88+00', '0.1.0', '', '{}', 1, '\x9abd3f5f14a31656c2aeca5ea80a2f96aeeab466c39d93bc4fa97b207dea8d8e', '\xa728d2d03c240e1d135192c485b625d2df070f0554557611c36d63e16de8f96a'),
	(12, 'rollback_declared', '2026-11-22 20:16:44.889+00', '0.1.0', 'too many robots', '{"bad_model":2,"epoch":3,"incident_id":null,"revoked_epochs":[2],"routing":{"routes":[{"calibration":1,"model":1,"share":1.0,"slice":"*"}]}}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x5fbec0df605d8a9a0f80d7515c0ccc1e34b774e12a9e0790f14967cc1bf8d375'),
	(13, 'model_registered', '2026-11-22 20:16:44.908+00', 'tests', '', '{"digest":"9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c","kind":"velocity","metadata":{},"model_version":3}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x71f87703f387a20ccea260e796441ab2652943723588044ef16ba24f3cc1abf0'),
	(14, 'calibration_set', '2026-11-22 20:16:44.926+00', 'tests', '', '{"calibration_version":3,"metadata":{},"model_version":3,"thresholds":{"*":1.0}}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\xa954e30d6fc43de8e4e57aea4b37793302c017c76957f6756a92c704af120efd'),
	(15, 'replay_planned', '2026-11-22 20:16:44.931+00', 'tests', '', '{"calibration_version":3,"chunks":1,"incident_id":null,"last_chain_hash":"5fbec0df605d8a9a0f80d7515c0ccc1e34b774e12a9e0790f14967cc1bf8d375","mode":"rescore","model_version":3,"positions":[5,13],"row_count":7,"scope":{}}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x1098c228a848cb4929df1508b04bc57dec6edca26ffcefcad1bb4d18610410d5'),
	(16, 'replay_staged', '2026-11-22 20:16:44.989+00', 'tests', '', '{"content_digest":"aa69417d62559e6bc5c66682ac7075828832ccbf530c3841801291c5aba288f2","row_count":7,"run_id":15}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x8b0a86536dc646c614fde6d4b4baff190061d0bca26fdfe8b31d209692f0963b'),
	(17, 'replay_compared', '2026-11-22 20:16:45.017+00', 'tests', '', '{"adjustments_micros":-1000,"billed_after_micros":5000,"billed_before_micros":6000,"carried":0,"clicks":7,"compared_at_position":16,"content_digest":"aa69417d62559e6bc5c66682ac7075828832ccbf530c3841801291c5aba288f2","digest":"500bda977f7987ab97cb39250e2474515a917fee16648c53651f54464a857ee5","flips":3,"gross_micros":3000,"positions":[5,13],"run_id":15,"to_invalid":2,"to_undecided":0,"to_valid":1,"totals_digest":"38b5f3128c942993ec436b2b06097491f641bd090805dd422a81268900d4aaaa","write_off_micros":0}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x1f642a972d533b53a8ee2100c12e7e8aa5ba1f1c8a3876f749629c97a349b7b3'),
	(18, 'replay_published', '2026-11-22 20:16:45.03+00', 'tests', 'test', '{"adjustments_micros":-1000,"clicks":7,"comparison_id":17,"digest":"500bda977f7987ab97cb39250e2474515a917fee16648c53651f54464a857ee5","flips":3,"positions":[5,13],"run_id":15}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x8f690ba009f04b532ae2538dacfd7adb229bf2f1163620f5ce65aaf54aa65006'),
	(19, 'period_closed', '2026-11-22 20:16:45.039+00', '0.1.0', '', '{"period":"2024-01"}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x923d75c713fea0681202f14b01b5135bfaec550a3a1059c8ab84e45370f33c1a'),
	(20, 'calibration_set', '2026-11-22 20:16:45.044+00', 'tests', '', '{"calibration_version":4,"metadata":{},"model_version":3,"thresholds":{"*":1.0}}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\xfa18b9ddf632ed4349fa4a02afde0a86e7b158604da014c5fe3a72e264755673'),
	(21, 'replay_planned', '2026-11-22 20:16:45.048+00', 'tests', '', '{"calibration_version":4,"chunks":1,"incident_id":null,"last_chain_hash":"923d75c713fea0681202f14b01b5135bfaec550a3a1059c8ab84e45370f33c1a","mode":"rescore","model_version":3,"positions":[1,20],"row_count":7,"scope":{}}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x70b91711570007ba843d0dbe1af9990bed6c1c2650458828a63b4dde706187ab'),
	(22, 'replay_staged', '2026-11-22 20:16:45.062+00', 'tests', '', '{"content_digest":"5b9a1a84ad8b72ed371c468b4b8d3ab4dc449efafa4866e4feee7dc5b524e280","row_count":7,"run_id":21}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\xeba85f6ba4e6b21e0676cdd0b4b3d508504c2e97e3d8fe10317bd618c1e5041f'),
	(23, 'replay_compared', '2026-11-22 20:16:45.08+00', 'tests', '', '{"adjustments_micros":0,"billed_after_micros":5000,"billed_before_micros":5000,"carried":0,"clicks":7,"compared_at_position":22,"content_digest":"5b9a1a84ad8b72ed371c468b4b8d3ab4dc449efafa4866e4feee7dc5b524e280","digest":"d4493b9b91e7a1c50d96e292d24dc860e0b8770ddd8c90c2153747fa01254deb","flips":4,"gross_micros":4000,"positions":[1,20],"run_id":21,"to_invalid":1,"to_undecided":1,"to_valid":2,"totals_digest":"54fe783efa38edd7b52542695e84e813c21f5675681b500a1204acac576f9687","write_off_micros":0}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\xe7b02d76c113fd804947993bc66a5d651549ced624fb0667b14dfffc8bfe9e06'),
	(24, 'replay_published', '2026-11-22 20:16:45.085+00', 'tests', 'test', '{"adjustments_micros":0,"clicks":7,"comparison_id":23,"digest":"d4493b9b91e7a1c50d96e292d24dc860e0b8770ddd8c90c2153747fa01254deb","flips":4,"positions":[1,20],"run_id":21}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\xd20098a41afbb806e260f4a3190930994f17c0fb2f2e90de95b708e061ef5da7'),
	(25, 'replay_reverted', '2026-11-22 20:16:45.09+00', '0.1.0', 'not that one', '{"positions":[1,20],"publication":24,"run_id":21}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x7dfca5b3bc2b2f4bef4108c5ebd7fd7e91c5d13eb675a9bc40ec6e4e43b67aeb'),
	(26, 'replay_planned', '2026-11-22 20:16:45.098+00', '0.1.0', 'left alone', '{"calibration_version":1,"chunks":1,"incident_id":null,"last_chain_hash":"d15e2f2021843e78a8a77a8a3f83fcd9b67790d73f20e5ca26a6aed2fabbd0f9","mode":"rescore","model_version":1,"positions":[1,6],"row_count":3,"scope":{}}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x21b4f4939737a570fa7eb936854fd2881ea673c96c81841bcf226e765a429310'),
	(27, 'counters_restored', '2026-11-22 20:16:45.102+00', '0.1.0', 'lost', '{"counter_epoch":2}', 0, '\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', '\x88c1a3738b5376cbf2690627002f80bae693305da1169bacf5d90329ee9388fc'),
	(28, 'clicks_decided', '2026-11-22 20:16:45.121+00', '0.1.0', '', '{}', 1, '\x799722043bc1a9589571974e88f1fe5a530e7b3cd5d8627d6cb28659d727785f', '\x1a28b2888d8acc1683c7d344f8cd1f232fdaa79d271e9bc5a291ca24028b5d21');
INSERT INTO public.models VALUES
	(1, 'velocity', '\xf379ccb92b9116442dc65bdc35648a85d3786b34779db7f704a901fa07b00cb6', 2),
	(2, 'velocity', '\x2f05d4b689d270cafb02285f35f44866f7dc8a2d368a3f9d1124373eeab31fb1', 6),
	(3, 'velocity', '\x9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c', 13);
INSERT INTO public.outcomes VALUES
	('018d61f7-23b8-7568-8a52-d55a02ec4aea', 'purchase', 1706832000000, 7000000, 11, 0);
INSERT INTO public.publications VALUES
	(18, 15, 17, '[5,13)', NULL),
	(24, 21, 23, '[1,20)', 25);
INSERT INTO public.replay_runs VALUES
	(15, '[5,13)', 'rescore', 3, 3, '{}', 7, NULL, 'staged', 16, '\xaa69417d62559e6bc5c66682ac7075828832ccbf530c3841801291c5aba288f2'),
	(21, '[1,20)', 'rescore', 3, 4, '{}', 7, NULL, 'staged', 22, '\x5b9a1a84ad8b72ed371c468b4b8d3ab4dc449efafa4866e4feee7dc5b524e280'),
	(26, '[1,6)', 'rescore', 1, 1, '{}', 3, NULL, 'planned', NULL, NULL);
INSERT INTO public.replay_chunks VALUES
	(15, 0, '[5,13)', 7, 'done', NULL, NULL, NULL, 0, NULL, '\xe35154c472ffe31f288c7c6e2c9cda917dd9ccb7a4b60cc8ffa1adad296d7deb'),
	(21, 0, '[1,20)', 7, 'done', NULL, NULL, NULL, 0, NULL, '\x7c6686de1d272bb1e97a67877c57374a1a63087d3521653b1ea123415da82126'),
	(26, 0, '[1,6)', 3, 'todo', NULL, NULL, NULL, 0, NULL, NULL);
